#ifndef MLIP_EXPORT_PRODUCT
#define MLIP_EXPORT_PRODUCT
#include <algorithm>
#include <cstdint>
#include <immintrin.h>
#include <memory>
#include <omp.h>

// C (M, N) = A (M, K) B (K, N) for a constant B, packed in panels of WIDTH columns, each (K, columns) with the columns
// of the last one rounded up to whole vectors; or several products in a row, each with the result before it as its A.
namespace mlip_product {

enum Epilogue { PLAIN, SILU, TIMES };

// What differs between vectors of 8 and of 16 floats.
template <int LANES>
struct Types;
template <>
struct Types<8> {
  typedef float Vec __attribute__((vector_size(32), aligned(4), may_alias));
  static Vec fma(Vec x, Vec y, Vec z) { return (Vec)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)z); }
  // x between -bound and bound; not a number if x is not
  static Vec clamp(Vec x, float bound) {
    return (Vec)_mm256_min_ps(_mm256_set1_ps(bound), _mm256_max_ps(_mm256_set1_ps(-bound), (__m256)x));
  }
  static Vec round(Vec x) { return (Vec)_mm256_round_ps((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Vec times_power_of_2(Vec x, Vec n) {
    const __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32((__m256)n), _mm256_set1_epi32(127));
    return x * (Vec)_mm256_slli_epi32(power, 23);
  }
  static Vec inverse(Vec x) { return 1.0f / x; }
};
#ifdef __AVX512F__
template <>
struct Types<16> {
  typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
  static Vec fma(Vec x, Vec y, Vec z) { return (Vec)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)z); }
  static Vec clamp(Vec x, float bound) {
    return (Vec)_mm512_min_ps(_mm512_set1_ps(bound), _mm512_max_ps(_mm512_set1_ps(-bound), (__m512)x));
  }
  static Vec round(Vec x) { return (Vec)_mm512_roundscale_ps((__m512)x, _MM_FROUND_NO_EXC); }
  static Vec times_power_of_2(Vec x, Vec n) { return (Vec)_mm512_scalef_ps((__m512)x, (__m512)n); }
  // an estimate of 14 bits and a step of Newton's method: a division takes longer
  static Vec inverse(Vec x) {
    const Vec y = (Vec)_mm512_rcp14_ps((__m512)x);
    return fma(fma(-x, y, 1.0f - Vec{}), y, y);
  }
};
#endif

struct Operands {
  const float *a, *b;
  float* c;                      // the result; null where only the next product reads it
  float* slope;                  // SILU: where the derivative goes
  const float *factor, *addend;  // TIMES: C = (A B + addend) factor
  int64_t K, a_row, c_row, factor_row, addend_row;
  uint16_t *a_parts, *c_parts;   // of Tiles: A instead of `a`, and the result for the next product

  // the same without the first m rows
  Operands from(int64_t m) const {
    Operands o = *this;
    if (a) o.a += m * a_row;
    if (c) o.c += m * c_row;
    if (slope) o.slope += m * c_row;
    if (factor) o.factor += m * factor_row;
    if (addend) o.addend += m * addend_row;
    return o;
  }
};

// Call each(first row, row behind the last, scratch) for blocks of M rows, in threads where that pays; scratch holds
// `floats`. What a thread does before and after, `Thread` does.
template <int64_t BLOCK, int64_t STEP, class Thread, class Each>
void in_blocks(int64_t M, int64_t operations, int64_t floats, const Each& each) {
  const bool many = M * operations > (1 << 18);
  floats = (floats + 15) / 16 * 16;
  const int64_t all = floats * (many ? omp_get_max_threads() : 1);
  const std::unique_ptr<float[]> memory(all > 0 ? new float[all + 16] : nullptr);
  float* const aligned = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(memory.get()) + 63) / 64 * 64);
#pragma omp parallel if (many)
  {
    const Thread thread;
    const int64_t t = omp_get_thread_num(), T = omp_get_num_threads(), steps = (M + STEP - 1) / STEP;
    const int64_t end = std::min(M, steps * (t + 1) / T * STEP);
    float* const scratch = aligned + t * floats;
    for (int64_t m = steps * t / T * STEP; m < end; m += BLOCK) each(m, std::min(m + BLOCK, end), scratch);
  }
}

template <int LANES>
struct Of {
  using T = Types<LANES>;
  using Vec = typename T::Vec;
  // 24 sums fill the 32 registers of AVX-512, 12 the 16 of AVX2
  static constexpr int ROWS = 6, VECTORS = LANES == 16 ? 4 : 2, WIDTH = VECTORS * LANES;
  static constexpr int64_t BLOCK = 96;  // rows that stay in the second-level cache while panels and products pass

  // written out, since Inductor compiles with -ffp-contract=off
  static Vec fma(Vec x, Vec y, Vec z) { return T::fma(x, y, z); }
  static Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
  static void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
  static Vec splat(float x) { return x - Vec{}; }

  // 1 / (1 + e^-x), with e^-x = 2^n e^r, r in [-ln 2 / 2, ln 2 / 2]; Cephes' polynomial
  static Vec sigmoid(Vec x) {
    x = -T::clamp(x, 87.0f);
    const Vec n = T::round(x * 1.44269504088896341f);
    Vec r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    Vec p = splat(1.9875691500e-4f);
    for (float term : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
      p = fma(p, r, splat(term));
    p = fma(p, r * r, r) + 1.0f;
    return T::inverse(T::times_power_of_2(p, n) + 1.0f);
  }

  // The first N elements of a vector; the others are zero, and are not written.
  template <int N>
  static Vec get(const float* p) {
    if constexpr (N == LANES) return load(p);
    Vec x{};
    for (int j = 0; j < N; ++j) x[j] = p[j];
    return x;
  }
  template <int N>
  static void put(float* p, Vec x) {
    if constexpr (N == LANES) return store(p, x);
    for (int j = 0; j < N; ++j) p[j] = x[j];
  }

  template <Epilogue E, int N>
  static void finish(const Operands& o, int64_t m, int64_t n, Vec x) {
    float* c = o.c + m * o.c_row + n;
    if constexpr (E == SILU) {
      const Vec s = sigmoid(x), y = x * s;
      put<N>(c, y);
      put<N>(o.slope + m * o.c_row + n, fma(y, 1.0f - s, s));
    } else if constexpr (E == TIMES) {
      if (o.addend) x += get<N>(o.addend + m * o.addend_row + n);
      put<N>(c, x * get<N>(o.factor + m * o.factor_row + n));
    } else {
      put<N>(c, x);
    }
  }

  // One register tile of R rows and V vectors, of which the last has LAST columns. Where it is inlined, GCC 12 keeps
  // fewer of the sums in registers.
  template <int R, int V, int LAST, Epilogue E>
  __attribute__((noinline)) static void tile(const Operands& o, const float* b, int64_t m, int64_t n) {
    const float* a = o.a + m * o.a_row;
    Vec sum[R][V];
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sum[r][v] = Vec{};
    for (int64_t k = 0; k < o.K; ++k) {
      Vec row[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) row[v] = load(b + (k * V + v) * LANES);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const Vec x = splat(a[r * o.a_row + k]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[r][v] = fma(x, row[v], sum[r][v]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
      for (int v = 0; v + 1 < V; ++v) finish<E, LANES>(o, m + r, n + v * LANES, sum[r][v]);
      finish<E, LAST>(o, m + r, n + (V - 1) * LANES, sum[r][V - 1]);
    }
  }

  template <int V, int LAST, Epilogue E>
  static void panel(const Operands& o, const float* b, int64_t M, int64_t n) {
    int64_t m = 0;
    for (; m + ROWS <= M; m += ROWS) tile<ROWS, V, LAST, E>(o, b, m, n);
    for (; m < M; ++m) tile<1, V, LAST, E>(o, b, m, n);
  }

  // C for M rows, of which A and the panels stay in the second-level cache if they are at most BLOCK.
  template <int64_t N, Epilogue E>
  static void product(const Operands& o, int64_t M) {
    constexpr int64_t whole = N / WIDTH, rest = N % WIDTH, vectors = (rest + LANES - 1) / LANES;
    for (int64_t j = 0; j < whole; ++j) panel<VECTORS, LANES, E>(o, o.b + j * WIDTH * o.K, M, j * WIDTH);
    if constexpr (rest > 0)
      panel<vectors, rest - (vectors - 1) * LANES, E>(o, o.b + whole * WIDTH * o.K, M, whole * WIDTH);
  }

  static constexpr int64_t ALONE = 0;  // buffers in the scratch of a product alone, of which there are two for several
  // Floats that hold what one product gives to the next, for a block.
  static int64_t buffer(int64_t columns) { return BLOCK * columns; }
  static void first(Operands&, int64_t, float*) {}
  // Let `next` read the result of `o`, from scratch where it has no place of its own.
  static void hand_over(Operands& o, Operands& next, int64_t columns, float* scratch) {
    if (!o.c) o.c = scratch;
    next.a = o.c;
    next.K = next.a_row = columns;
  }

  struct Thread {};
  template <class Each>
  static void blocks(int64_t M, int64_t operations, int64_t floats, const Each& each) {
    in_blocks<BLOCK, ROWS, Thread>(M, operations, floats, each);
  }
};

}  // namespace mlip_product
#endif
