// A .pt2 is a zip archive whose entries are stored as they are; torch unpacks it without looking at their checksums.

#ifndef MLIP_MODEL_ARCHIVE_H
#define MLIP_MODEL_ARCHIVE_H

#include <array>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

namespace mlip {

// CRC-32 of zip: reflected polynomial 0xEDB88320.
inline uint32_t crc32(const unsigned char *data, size_t size)
{
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t n = 0; n < 256; n++) {
      t[n] = n;
      for (int bit = 0; bit < 8; bit++) t[n] = (t[n] & 1) ? 0xEDB88320u ^ (t[n] >> 1) : t[n] >> 1;
    }
    return t;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (size_t k = 0; k < size; k++) crc = table[(crc ^ data[k]) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

struct Archive {
  std::vector<std::string> names;    // of its entries
  std::string identity;              // equal for equal contents: names, checksums and sizes
};

// An exported model whose entries were compared with their checksums.
// Throws std::runtime_error: the archive is incomplete, or an entry is damaged or compressed.
inline Archive checked_archive(const std::string &path)
{
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error(path + " must be a readable .pt2 file, got no such file");
  const std::vector<unsigned char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto within = [&](size_t at, size_t size) { return at <= bytes.size() && size <= bytes.size() - at; };
  const auto require = [&](bool whole) {
    if (!whole) throw std::runtime_error(path + " must be a complete .pt2 file, got a truncated or foreign one");
  };
  const auto number = [&](size_t at, int width) {
    require(within(at, width));
    size_t value = 0;
    for (int k = width - 1; k >= 0; k--) value = value << 8 | bytes[at + k];
    return value;
  };

  constexpr size_t END = 22, ENTRY = 46, LOCAL = 30;    // bytes of zip's three records before their names
  require(bytes.size() >= END);
  size_t end = bytes.size() - END;
  while (end > 0 && bytes.size() - END - end < 0xFFFF && number(end, 4) != 0x06054b50) end--;
  require(number(end, 4) == 0x06054b50);
  const size_t count = number(end + 10, 2);
  size_t at = number(end + 16, 4);
  Archive archive;
  for (size_t k = 0; k < count; k++) {
    require(number(at, 4) == 0x02014b50);
    const size_t crc = number(at + 16, 4), size = number(at + 24, 4), name_size = number(at + 28, 2);
    const size_t header = number(at + 42, 4);
    require(within(at + ENTRY, name_size) && number(header, 4) == 0x04034b50);
    const std::string name(bytes.begin() + at + ENTRY, bytes.begin() + at + ENTRY + name_size);
    if (number(at + 10, 2) != 0)
      throw std::runtime_error(path + " must be stored as mlip-export compile writes it, got one whose " + name +
                               " is compressed");
    const size_t start = header + LOCAL + number(header + 26, 2) + number(header + 28, 2);
    require(within(start, size));
    if (crc32(bytes.data() + start, size) != crc)
      throw std::runtime_error(path + " must be undamaged, got one whose " + name + " fails its checksum");
    archive.names.push_back(name);
    archive.identity += name + ' ' + std::to_string(crc) + ' ' + std::to_string(size) + '\n';
    at += ENTRY + name_size + number(at + 30, 2) + number(at + 32, 2);
  }
  return archive;
}

}    // namespace mlip

#endif
