#ifndef MLIP_EXPORT_TILES
#define MLIP_EXPORT_TILES
#if defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__AVX512BF16__)
#include <stdexcept>
#include <sys/syscall.h>
#include <unistd.h>

namespace mlip_product {

// The same products in the tiles of AMX, as accurate as in float32: a number is the sum of three of bfloat16 (its parts, 8
// bits each; exact for magnitudes from 1e-31 to 3.38e38), and six of the nine products of parts are summed in float32.
// The other three add up to at most 2^-23 of the product.
// Parts of A lie in tiles of 16 rows and 32 columns, those of B in tiles of 32 rows, two by two, and 16 columns.
struct Tiles {
  using V = Of<16>;
  using Vec = V::Vec;
  static constexpr int64_t BLOCK = 96, SIDE = 32, TILE = 512, PARTS = 3, ALONE = 1;

  static constexpr int64_t padded(int64_t n) { return (n + SIDE - 1) / SIDE * SIDE; }
  static int64_t buffer(int64_t columns) { return BLOCK * padded(columns) * PARTS / 2; }

  static __m512 widen(__m256bh x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)x), 16));
  }

  // Write the parts of 16 numbers of row m, of a matrix with `columns`, from column n on.
  static void split(Vec x, uint16_t* parts, int64_t m, int64_t n, int64_t columns) {
    parts += (m / 16 * (padded(columns) / SIDE) + n / SIDE) * PARTS * TILE + m % 16 * SIDE + n % SIDE;
    __m512 rest = (__m512)x;
    for (int p = 0; p < PARTS; ++p) {
      const __m256bh part = _mm512_cvtneps_pbh(rest);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(parts + p * TILE), (__m256i)part);
      rest = _mm512_sub_ps(rest, widen(part));
    }
  }

  static __mmask16 mask(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (1 << n) - 1; }

  static void first(Operands& o, int64_t M, float* scratch) {
    o.a_parts = reinterpret_cast<uint16_t*>(scratch);
    for (int64_t m = 0; m < M; ++m)
      for (int64_t k = 0; k < padded(o.K); k += 16)
        split((Vec)_mm512_maskz_loadu_ps(mask(o.K - k), o.a + m * o.a_row + k), o.a_parts, m, k, o.K);
  }

  static void hand_over(Operands& o, Operands& next, int64_t columns, float* scratch) {
    o.c_parts = next.a_parts = reinterpret_cast<uint16_t*>(scratch);
    next.K = columns;
  }

  template <Epilogue E>
  static void finish(const Operands& o, int64_t m, int64_t n, int64_t columns, Vec x) {
    const __mmask16 valid = mask(columns - n);
    const auto get = [&](const float* p, int64_t row) { return (Vec)_mm512_maskz_loadu_ps(valid, p + m * row + n); };
    if constexpr (E == SILU) {
      const Vec s = V::sigmoid(x), y = x * s;
      _mm512_mask_storeu_ps(o.slope + m * o.c_row + n, valid, (__m512)V::fma(y, 1.0f - s, s));
      x = y;
    } else if constexpr (E == TIMES) {
      if (o.addend) x += get(o.addend, o.addend_row);
      x *= get(o.factor, o.factor_row);
    }
    if (o.c) _mm512_mask_storeu_ps(o.c + m * o.c_row + n, valid, (__m512)x);
    if (o.c_parts) split(x, o.c_parts, m, n, columns);
  }

  // Sums of 32 rows and 32 columns, tiles 0 to 3, over the pairs of parts, that of the largest products last.
  static void sums(const uint16_t* a, const uint16_t* b, int64_t depth, float* c) {
    const int64_t next = depth * PARTS * TILE;  // from 16 rows or columns to the next
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < depth; ++k, a += PARTS * TILE, b += PARTS * TILE) {
      const auto rows = [&](int part) {
        _tile_loadd(4, a + part * TILE, 64);
        _tile_loadd(5, a + next + part * TILE, 64);
      };
      const auto columns = [&](int part) {
        _tile_loadd(6, b + part * TILE, 64);
        _tile_loadd(7, b + next + part * TILE, 64);
      };
      const auto multiply = [] {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      };
      rows(0), columns(2), multiply();
      columns(1), multiply();
      rows(1), multiply();
      columns(0), multiply();
      rows(2), multiply();
      rows(0), multiply();
    }
    _tile_stored(0, c, 4 * SIDE);
    _tile_stored(1, c + 16, 4 * SIDE);
    _tile_stored(2, c + 16 * SIDE, 4 * SIDE);
    _tile_stored(3, c + 16 * SIDE + 16, 4 * SIDE);
  }

  template <int64_t N, Epilogue E>
  __attribute__((noinline)) static void product(const Operands& o, int64_t M) {
    alignas(64) float c[SIDE * SIDE];
    const auto b = reinterpret_cast<const uint16_t*>(o.b);
    const int64_t depth = padded(o.K) / SIDE, strip = 2 * depth * PARTS * TILE;
    for (int64_t n = 0; n < N; n += SIDE)
      for (int64_t m = 0; m < M; m += SIDE) {
        sums(o.a_parts + m / SIDE * strip, b + n / SIDE * strip, depth, c);
        for (int64_t r = 0; r < std::min(SIDE, M - m); ++r)
          for (int64_t v = 0; v < SIDE; v += 16) finish<E>(o, m + r, n + v, N, V::load(c + r * SIDE + v));
      }
  }

  struct Thread {  // the shapes of its tiles
    Thread() {
      struct __attribute__((packed)) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
      } shapes;
      asm volatile("ldtilecfg %0" ::"m"(shapes));  // GCC 12.2 drops what _tile_loadconfig reads
    }
    ~Thread() { _tile_release(); }
  };

  template <class Each>
  static void blocks(int64_t M, int64_t operations, int64_t floats, const Each& each) {
    constexpr int request = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    static const bool allowed = syscall(SYS_arch_prctl, request, tile_data) == 0;
    if (!allowed)
      throw std::runtime_error("this exported model must run where the processor has AMX and the system lets the process use "
                               "it: compile it again here, or with --isa avx512");
    in_blocks<BLOCK, SIDE, Thread>(M, operations, floats, each);
  }
};

}  // namespace mlip_product
#endif
#endif
