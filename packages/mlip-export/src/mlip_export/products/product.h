#ifndef MLIP_EXPORT_PRODUCT
#define MLIP_EXPORT_PRODUCT
#include <algorithm>
#include <cstdint>
#include <immintrin.h>
#include <omp.h>

// C (M, N) = A (M, K) B (K, N) for a constant B, packed in panels of WIDTH columns, each (K, columns) with the
// columns of the last one rounded up to whole vectors.
namespace mlip_product {

enum Epilogue { PLAIN, SILU, TIMES };

template <int LANES>
struct Types;
template <>
struct Types<8> {
  typedef float Vec __attribute__((vector_size(32), aligned(4), may_alias));
  typedef int32_t Int __attribute__((vector_size(32), aligned(4), may_alias));
  static Vec fma(Vec x, Vec y, Vec z) { return (Vec)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)z); }
};
#ifdef __AVX512F__
template <>
struct Types<16> {
  typedef float Vec __attribute__((vector_size(64), aligned(4), may_alias));
  typedef int32_t Int __attribute__((vector_size(64), aligned(4), may_alias));
  static Vec fma(Vec x, Vec y, Vec z) { return (Vec)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)z); }
};
#endif

template <int LANES>
struct Of {
  using Vec = typename Types<LANES>::Vec;
  using Int = typename Types<LANES>::Int;
  // 24 sums fill the 32 registers of AVX-512, 12 the 16 of AVX2
  static constexpr int ROWS = 6, VECTORS = LANES == 16 ? 4 : 2, WIDTH = VECTORS * LANES;
  static constexpr int64_t BLOCK = 96;  // rows that stay in the second-level cache while the panels pass

  // written out, since Inductor compiles with -ffp-contract=off
  static Vec fma(Vec x, Vec y, Vec z) { return Types<LANES>::fma(x, y, z); }
  static Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
  static void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
  static Vec splat(float x) { return x - Vec{}; }

  // e^x as 2^n e^r, r in [-ln 2 / 2, ln 2 / 2]; Cephes' polynomial
  static Vec exponential(Vec x) {
    x = x > splat(88.0f) ? splat(88.0f) : x;
    x = x < splat(-87.0f) ? splat(-87.0f) : x;
    const Int power = __builtin_convertvector(x * 1.44269504088896341f + 127.5f, Int);
    const Vec n = __builtin_convertvector(power - 127, Vec);
    Vec r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    Vec p = splat(1.9875691500e-4f);
    for (float term : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
      p = fma(p, r, splat(term));
    p = fma(p, r * r, r) + 1.0f;
    return p * (Vec)(power << 23);
  }

  struct Operands {
    const float *a, *b;
    float* c;      // the result
    float* slope;  // SILU: where the derivative goes
    const float *factor, *addend;  // TIMES: C = (A B + addend) factor
    int64_t K, a_row, c_row, factor_row, addend_row;
  };

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
      const Vec s = 1.0f / (1.0f + exponential(-x)), y = x * s;
      put<N>(c, y);
      put<N>(o.slope + m * o.c_row + n, s + y * (1.0f - s));
    } else if constexpr (E == TIMES) {
      if (o.addend) x += get<N>(o.addend + m * o.addend_row + n);
      put<N>(c, x * get<N>(o.factor + m * o.factor_row + n));
    } else {
      put<N>(c, x);
    }
  }

  // One register tile of R rows and V vectors, of which the last has LAST columns.
  template <int R, int V, int LAST, Epilogue E>
  static void tile(const Operands& o, const float* b, int64_t m, int64_t n) {
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
  static void panel(const Operands& o, const float* b, int64_t begin, int64_t end, int64_t n) {
    int64_t m = begin;
    for (; m + ROWS <= end; m += ROWS) tile<ROWS, V, LAST, E>(o, b, m, n);
    for (; m < end; ++m) tile<1, V, LAST, E>(o, b, m, n);
  }

  template <int64_t N, Epilogue E>
  static void rows(const Operands& o, int64_t begin, int64_t end) {
    constexpr int64_t whole = N / WIDTH, rest = N % WIDTH, vectors = (rest + LANES - 1) / LANES;
    for (int64_t m = begin; m < end; m += BLOCK) {
      const int64_t stop = std::min(m + BLOCK, end);
      for (int64_t j = 0; j < whole; ++j) panel<VECTORS, LANES, E>(o, o.b + j * WIDTH * o.K, m, stop, j * WIDTH);
      if constexpr (rest > 0)
        panel<vectors, rest - (vectors - 1) * LANES, E>(o, o.b + whole * WIDTH * o.K, m, stop, whole * WIDTH);
    }
  }

  template <int64_t N, Epilogue E>
  static void product(const Operands& o, int64_t M) {
#pragma omp parallel if (M * N * o.K > (1 << 18))
    {
      const int64_t t = omp_get_thread_num(), T = omp_get_num_threads(), tiles = (M + ROWS - 1) / ROWS;
      rows<N, E>(o, tiles * t / T * ROWS, std::min(M, tiles * (t + 1) / T * ROWS));
    }
  }
};

}  // namespace mlip_product
#endif
