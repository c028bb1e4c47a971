/* Arithmetic on rows of LANES floats, which Cython cannot express. A row holds one
   number of each streamline of a block.

   With GCC and clang, sums stay in vector registers (_rows.h). Other compilers use
   plain loops. */

#ifndef DIPY_RNN_LANES_H
#define DIPY_RNN_LANES_H

#include <stddef.h> /* also defines __GLIBC__ */
#include <stdint.h>
#include <string.h>

#define LANES 32
#define PANEL 8 /* outputs that weighted_sums() computes at a time */

/* Wheels are built for the baseline x86-64. With GCC and glibc, functions are compiled
   for each vector width, and the widest that the processor supports is used. Functions
   in plain loops have the return type wide_void: glibc chooses when the module is
   loaded. On other systems, and with -DONE_WIDTH, there is one version, for the flags
   of the compiler. */
#if !defined(ONE_WIDTH) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 \
    && defined(__x86_64__) && defined(__GLIBC__)
#define MANY_WIDTHS
#define wide_void __attribute__((target_clones( \
    "arch=x86-64-v4", "arch=x86-64-v3", "default"))) void
#else
#define wide_void void
#endif

/* Vectors must not cross the border of a cache line. */
#if defined(__GNUC__)
#define prefetch(address) __builtin_prefetch(address)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define NOT_INLINE __attribute__((noinline, unused))
#define aligned_float __attribute__((aligned(64))) float
#else
#define prefetch(address)
#define ALWAYS_INLINE static __forceinline
#define aligned_float __declspec(align(64)) float
#endif

/* Return the first address from `memory` on that is the start of a cache line. The
   caller has allocated CACHE_LINE bytes more. */
#define CACHE_LINE 64
ALWAYS_INLINE float *aligned(void *memory)
{
    return (float *)(((uintptr_t)memory + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE);
}

#if defined(MANY_WIDTHS)
#define WIDTH 16
#define TARGET __attribute__((target("arch=x86-64-v4")))
#include "_rows.h"
#undef WIDTH
#undef TARGET
#define WIDTH 8
#define TARGET __attribute__((target("arch=x86-64-v3")))
#include "_rows.h"
#undef WIDTH
#undef TARGET
#define WIDTH 4
#define TARGET
#include "_rows.h"
#define WITH_WIDEST(name, arguments) \
    do { \
        if (__builtin_cpu_supports("x86-64-v4")) \
            name##_16 arguments; \
        else if (__builtin_cpu_supports("x86-64-v3")) \
            name##_8 arguments; \
        else \
            name##_4 arguments; \
    } while (0)
#elif defined(__GNUC__)
#define TARGET
#if defined(__AVX512F__)
#define WIDTH 16
#define WITH_WIDEST(name, arguments) name##_16 arguments
#elif defined(__AVX__)
#define WIDTH 8
#define WITH_WIDEST(name, arguments) name##_8 arguments
#else
#define WIDTH 4
#define WITH_WIDEST(name, arguments) name##_4 arguments
#endif
#include "_rows.h"
#endif

/* n_out rows of sums: out = bias + weights x. `bias` can be NULL, for zeros. Rows of x
   are `stride` floats apart. Weights are stored in panels of PANEL outputs. A panel
   holds, input by input, PANEL weights side by side. n_out is a multiple of PANEL. */
ALWAYS_INLINE void weighted_sums(
    const float *weights, const float *bias, ptrdiff_t n_in, ptrdiff_t n_out,
    const float *x, ptrdiff_t stride, float *out)
{
#if defined(__GNUC__)
    WITH_WIDEST(weighted_sums, (weights, bias, n_in, n_out, x, stride, out));
#else
    for (ptrdiff_t o = 0; o < n_out; o += PANEL) {
        float sum[PANEL * LANES];
        for (int j = 0; j < PANEL * LANES; j++)
            sum[j] = bias ? bias[o + j / LANES] : 0.0f;
        for (ptrdiff_t i = 0; i < n_in; i++, weights += PANEL)
            for (int j = 0; j < PANEL; j++)
                for (int p = 0; p < LANES; p++)
                    sum[j * LANES + p] += weights[j] * x[i * stride + p];
        memcpy(out + o * LANES, sum, sizeof sum);
    }
#endif
}

struct layer {
    const float *weights; /* in panels */
    const float *bias;
    ptrdiff_t n_in;
    ptrdiff_t n_out;
};

/* out = bias + weights x */
ALWAYS_INLINE void dense(const struct layer *layer, const float *x, float *out)
{
    weighted_sums(
        layer->weights, layer->bias, layer->n_in, layer->n_out, x, LANES, out);
}

/* Weighted sums of n values of eight voxels, for n_rows points. offsets and weights hold
   LANES numbers for each of the eight voxels. */
ALWAYS_INLINE void blend(
    const float *volume, const ptrdiff_t *offsets, const float *weights,
    ptrdiff_t n_rows, ptrdiff_t n, float *out)
{
#if defined(__GNUC__)
    WITH_WIDEST(blend, (volume, offsets, weights, n_rows, n, out));
#else
    for (ptrdiff_t row = 0; row < n_rows; row++)
        for (ptrdiff_t c = 0; c < n; c++) {
            float part[4];
            for (int k = 0; k < 4; k++) {
                const ptrdiff_t low = 2 * k * LANES + row, high = low + LANES;
                part[k] = weights[low] * volume[offsets[low] + c]
                    + weights[high] * volume[offsets[high] + c];
            }
            out[row * n + c] = (part[0] + part[1]) + (part[2] + part[3]);
        }
#endif
}

/* out = matrix x, for a sparse matrix in CSR form. */
ALWAYS_INLINE void sparse_sums(
    const int *starts, const int *columns, const float *values, ptrdiff_t n_rows,
    const float *x, float *out)
{
#if defined(__GNUC__)
    WITH_WIDEST(sparse_sums, (starts, columns, values, n_rows, x, out));
#else
    memset(out, 0, n_rows * LANES * sizeof *out);
    for (ptrdiff_t row = 0; row < n_rows; row++)
        for (int i = starts[row]; i < starts[row + 1]; i++)
            for (int p = 0; p < LANES; p++)
                out[row * LANES + p] += values[i] * x[columns[i] * LANES + p];
#endif
}

/* Fourier parts of the values on a ring: their mean, then cosine and sine part of order
   1, then of order 2. `first` and `second` hold n cosines, then n sines, divided by n.
   The values are `stride` floats apart. */
ALWAYS_INLINE void fourier_parts(
    const float *values, ptrdiff_t stride, ptrdiff_t n, const float *first,
    const float *second, float *mean, float *cos_1, float *sin_1, float *cos_2,
    float *sin_2)
{
#if defined(__GNUC__)
    WITH_WIDEST(fourier_parts, (values, stride, n, first, second, mean, cos_1, sin_1,
                                cos_2, sin_2));
#else
    const float share = 1.0f / n;
    for (int p = 0; p < LANES; p++)
        mean[p] = cos_1[p] = sin_1[p] = cos_2[p] = sin_2[p] = 0.0f;
    for (ptrdiff_t k = 0; k < n; k++)
        for (int p = 0; p < LANES; p++) {
            float value = values[k * stride + p];
            mean[p] += share * value;
            cos_1[p] += first[k] * value;
            sin_1[p] += first[n + k] * value;
            cos_2[p] += second[k] * value;
            sin_2[p] += second[n + k] * value;
        }
#endif
}

/* Raise `height` to the largest of n rows. NaN is never the largest. */
ALWAYS_INLINE void raise_to(const float *rows, ptrdiff_t n, float *height)
{
#if defined(__GNUC__)
    WITH_WIDEST(raise_to, (rows, n, height));
#else
    for (ptrdiff_t i = 0; i < n; i++)
        for (int p = 0; p < LANES; p++)
            height[p] = rows[i * LANES + p] > height[p] ? rows[i * LANES + p] : height[p];
#endif
}

/* Write n rows of sums of two arrays, then n rows of their differences. Raise `height` to
   the largest of them, as raise_to(). */
ALWAYS_INLINE void add_and_raise(
    const float *even, const float *odd, ptrdiff_t n, float *rows, float *height)
{
#if defined(__GNUC__)
    WITH_WIDEST(add_and_raise, (even, odd, n, rows, height));
#else
    for (ptrdiff_t i = 0; i < n * LANES; i++) {
        rows[i] = even[i] + odd[i];
        rows[n * LANES + i] = even[i] - odd[i];
    }
    raise_to(rows, 2 * n, height);
#endif
}

/* Write the first of n rows that is at least `least`, or 0. */
ALWAYS_INLINE void first_from(
    const float *rows, ptrdiff_t n, const float *least, int32_t *first)
{
#if defined(__GNUC__)
    WITH_WIDEST(first_from, (rows, n, least, first));
#else
    memset(first, 0, LANES * sizeof *first);
    for (ptrdiff_t i = n - 1; i >= 0; i--)
        for (int p = 0; p < LANES; p++)
            first[p] = rows[i * LANES + p] >= least[p] ? (int32_t)i : first[p];
#endif
}

/* exp(x), to about 2 units in the last place. x is clamped to [-87, 87].
   It is 2^n exp(r) with n = x / ln 2 rounded and |r| <= ln 2 / 2. exp(r) is a Taylor
   series. ln 2 is split into two parts; the first has few digits, so that its product
   with n is exact (Cody and Waite, Software Manual for the Elementary Functions,
   1980). */
ALWAYS_INLINE float exponential(float x)
{
    x = x > 87.0f ? 87.0f : x;
    x = x < -87.0f ? -87.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f; /* 1.5 * 2^23: rounds to integer */
    float n = shifted - 12582912.0f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float sum = 1.0f + r * (1.0f + r * (0.5f + r * (1.66666672e-1f
        + r * (4.16666679e-2f + r * (8.33333377e-3f + r * 1.38888892e-3f)))));
    uint32_t bits; /* the low bits of shifted are n; NaN cannot be converted */
    float power;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits + 127) << 23;
    memcpy(&power, &bits, sizeof power);
    return sum * power;
}

/* The cell DistanceGRU of moving_frame.py. gates holds n rows of sums for the reset
   gate, then n rows for the logarithm of the rate. from_input and from_state hold the
   two sums of the candidate. The state is updated in place. */
ALWAYS_INLINE void gru_gates(
    const float *gates, const float *from_input, const float *from_state,
    ptrdiff_t n, float step, float rate_limit, float *state)
{
    const float *reset = gates, *log_rate = gates + n * LANES;
    for (ptrdiff_t i = 0; i < n * LANES; i++) {
        float r = 1.0f / (1.0f + exponential(-reset[i]));
        float rate = log_rate[i] > rate_limit ? rate_limit : log_rate[i];
        float z = exponential(-step * exponential(rate));
        float candidate = from_input[i] + r * from_state[i];
        candidate = 1.0f - 2.0f / (1.0f + exponential(2.0f * candidate));
        state[i] = candidate + z * (state[i] - candidate);
    }
}

ALWAYS_INLINE void leaky(ptrdiff_t n, float *x)
{
    for (ptrdiff_t i = 0; i < n * LANES; i++)
        x[i] = x[i] > 0.0f ? x[i] : 0.1f * x[i];
}

#endif
