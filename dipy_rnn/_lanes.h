/* Arithmetic on rows of LANES floats, which Cython cannot express. A row holds one
   number of each streamline of a block.

   GCC's vector types keep the sums in registers. Other compilers use plain loops. */

#ifndef DIPY_RNN_LANES_H
#define DIPY_RNN_LANES_H

#include <stddef.h> /* also defines __GLIBC__ */
#include <stdint.h>
#include <string.h>

#define LANES 16
#define PANEL 8 /* outputs that dense() sums at a time */
#define HALF_PANEL 4 /* vertices that ring_values() sums at a time, with their opposites */

/* Return type of functions that are compiled once for each vector width. Wheels are
   built for the baseline x86-64. When the module is loaded, glibc chooses the widest
   version that the machine supports. On other systems, and with -DONE_WIDTH, there is
   one version, for the compiler's flags. */
#if !defined(ONE_WIDTH) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 \
    && defined(__x86_64__) && defined(__GLIBC__)
#define wide_void __attribute__((target_clones( \
    "arch=x86-64-v4", "arch=x86-64-v3", "default"))) void
#else
#define wide_void void
#endif

#if defined(__GNUC__)
#define prefetch(address) __builtin_prefetch(address)
#define ALWAYS_INLINE static inline __attribute__((always_inline))
typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t integers __attribute__((vector_size(4 * LANES), aligned(4)));
#else
#define prefetch(address)
#define ALWAYS_INLINE static __forceinline
#endif

/* Weights are stored in panels of PANEL outputs. A panel holds, input by input, PANEL
   weights side by side. n_out is a multiple of PANEL. */
struct layer {
    const float *weights;
    const float *bias;
    ptrdiff_t n_in;
    ptrdiff_t n_out;
};

/* out = bias + weights x */
ALWAYS_INLINE void dense(const struct layer *layer, const float *x, float *out)
{
    const float *weights = layer->weights, *bias = layer->bias;
    const ptrdiff_t n_in = layer->n_in, n_out = layer->n_out;
    for (ptrdiff_t o = 0; o < n_out; o += PANEL) {
#if defined(__GNUC__)
        const lanes zero = {0};
        lanes a0 = zero + bias[o], a1 = zero + bias[o + 1];
        lanes a2 = zero + bias[o + 2], a3 = zero + bias[o + 3];
        lanes a4 = zero + bias[o + 4], a5 = zero + bias[o + 5];
        lanes a6 = zero + bias[o + 6], a7 = zero + bias[o + 7];
        for (ptrdiff_t i = 0; i < n_in; i++, weights += PANEL) {
            lanes value = *(const lanes *)(x + i * LANES);
            a0 += weights[0] * value;
            a1 += weights[1] * value;
            a2 += weights[2] * value;
            a3 += weights[3] * value;
            a4 += weights[4] * value;
            a5 += weights[5] * value;
            a6 += weights[6] * value;
            a7 += weights[7] * value;
        }
        lanes *target = (lanes *)(out + o * LANES);
        target[0] = a0; target[1] = a1; target[2] = a2; target[3] = a3;
        target[4] = a4; target[5] = a5; target[6] = a6; target[7] = a7;
#else
        float sum[PANEL * LANES];
        for (int j = 0; j < PANEL * LANES; j++)
            sum[j] = bias[o + j / LANES];
        for (ptrdiff_t i = 0; i < n_in; i++, weights += PANEL)
            for (int j = 0; j < PANEL; j++)
                for (int p = 0; p < LANES; p++)
                    sum[j * LANES + p] += weights[j] * x[i * LANES + p];
        memcpy(out + o * LANES, sum, sizeof sum);
#endif
    }
}

/* Weighted sum of n values of eight voxels. The last vector may overlap the one before:
   the same values are written twice. */
ALWAYS_INLINE void blend(
    const float **voxels, const float *weights, ptrdiff_t n, float *out)
{
    const float *v0 = voxels[0], *v1 = voxels[1], *v2 = voxels[2], *v3 = voxels[3];
    const float *v4 = voxels[4], *v5 = voxels[5], *v6 = voxels[6], *v7 = voxels[7];
    const float w0 = weights[0], w1 = weights[1], w2 = weights[2], w3 = weights[3];
    const float w4 = weights[4], w5 = weights[5], w6 = weights[6], w7 = weights[7];
#if defined(__GNUC__)
    for (ptrdiff_t c = 0; n >= LANES && c < n; c += LANES) {
        c = c < n - LANES ? c : n - LANES;
#define AT(voxel) (*(const lanes *)(voxel + c))
        *(lanes *)(out + c) = ((w0 * AT(v0) + w1 * AT(v1)) + (w2 * AT(v2) + w3 * AT(v3)))
            + ((w4 * AT(v4) + w5 * AT(v5)) + (w6 * AT(v6) + w7 * AT(v7)));
#undef AT
    }
    if (n >= LANES)
        return;
#endif
    for (ptrdiff_t c = 0; c < n; c++)
        out[c] = ((w0 * v0[c] + w1 * v1[c]) + (w2 * v2[c] + w3 * v3[c]))
            + ((w4 * v4[c] + w5 * v5[c]) + (w6 * v6[c] + w7 * v7[c]));
}

/* Fourier parts of the values on a ring: their mean, then cosine and sine part of order
   1, then of order 2. `first` and `second` hold n cosines, then n sines, divided by n.
   The values are `stride` floats apart. */
ALWAYS_INLINE void fourier_parts(
    const float *values, ptrdiff_t stride, ptrdiff_t n, const float *first,
    const float *second, float *mean, float *cos_1, float *sin_1, float *cos_2,
    float *sin_2)
{
    const float share = 1.0f / n;
#if defined(__GNUC__)
    lanes m = {0}, c1 = m, s1 = m, c2 = m, s2 = m;
    for (ptrdiff_t k = 0; k < n; k++) {
        lanes value = *(const lanes *)(values + k * stride);
        m += share * value;
        c1 += first[k] * value;
        s1 += first[n + k] * value;
        c2 += second[k] * value;
        s2 += second[n + k] * value;
    }
    *(lanes *)mean = m;
    *(lanes *)cos_1 = c1; *(lanes *)sin_1 = s1;
    *(lanes *)cos_2 = c2; *(lanes *)sin_2 = s2;
#else
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

/* Add the multiples of the row x by n weights to n rows. */
ALWAYS_INLINE void add_multiples(
    const float *weights, ptrdiff_t n, const float *x, float *rows)
{
#if defined(__GNUC__)
    const lanes value = *(const lanes *)x;
    for (ptrdiff_t i = 0; i < n; i++)
        *(lanes *)(rows + i * LANES) += weights[i] * value;
#else
    for (ptrdiff_t i = 0; i < n; i++)
        for (int p = 0; p < LANES; p++)
            rows[i * LANES + p] += weights[i] * x[p];
#endif
}

/* Values at `half` vertices of a ring, and at those half a turn further (cone.py). sums
   holds a row for each phase factor from -order to order, `stride` floats apart. Half a
   turn further, terms of even phase factors are the same, and odd ones change sign.
   Weights are stored in panels of HALF_PANEL vertices: even phase factors, then odd. */
ALWAYS_INLINE void ring_values(
    const float *weights, const float *sums, ptrdiff_t stride, ptrdiff_t order,
    ptrdiff_t half, float *out)
{
    for (ptrdiff_t v = 0; v < half; v += HALF_PANEL) {
#if defined(__GNUC__)
        lanes e0 = {0}, e1 = e0, e2 = e0, e3 = e0, o0 = e0, o1 = e0, o2 = e0, o3 = e0;
        for (ptrdiff_t m = 0; m <= 2 * order; m += 2, weights += HALF_PANEL) {
            lanes value = *(const lanes *)(sums + m * stride);
            e0 += weights[0] * value;
            e1 += weights[1] * value;
            e2 += weights[2] * value;
            e3 += weights[3] * value;
        }
        for (ptrdiff_t m = 1; m < 2 * order; m += 2, weights += HALF_PANEL) {
            lanes value = *(const lanes *)(sums + m * stride);
            o0 += weights[0] * value;
            o1 += weights[1] * value;
            o2 += weights[2] * value;
            o3 += weights[3] * value;
        }
        lanes *here = (lanes *)(out + v * LANES);
        lanes *opposite = (lanes *)(out + (half + v) * LANES);
        here[0] = e0 + o0; here[1] = e1 + o1; here[2] = e2 + o2; here[3] = e3 + o3;
        opposite[0] = e0 - o0; opposite[1] = e1 - o1;
        opposite[2] = e2 - o2; opposite[3] = e3 - o3;
#else
        float even[HALF_PANEL * LANES] = {0}, odd[HALF_PANEL * LANES] = {0};
        for (int parity = 0; parity < 2; parity++)
            for (ptrdiff_t m = parity; m <= 2 * order; m += 2, weights += HALF_PANEL)
                for (int j = 0; j < HALF_PANEL; j++)
                    for (int p = 0; p < LANES; p++)
                        (parity ? odd : even)[j * LANES + p]
                            += weights[j] * sums[m * stride + p];
        for (int j = 0; j < HALF_PANEL * LANES; j++) {
            out[v * LANES + j] = even[j] + odd[j];
            out[(half + v) * LANES + j] = even[j] - odd[j];
        }
#endif
    }
}

/* Raise `height` to the largest of n rows. NaN is never the largest. */
ALWAYS_INLINE void raise_to(const float *rows, ptrdiff_t n, float *height)
{
#if defined(__GNUC__)
    lanes top = *(lanes *)height;
    for (ptrdiff_t i = 0; i < n; i++) {
        lanes row = *(const lanes *)(rows + i * LANES);
        integers higher = row > top;
        top = (lanes)(((integers)row & higher) | ((integers)top & ~higher));
    }
    *(lanes *)height = top;
#else
    for (ptrdiff_t i = 0; i < n; i++)
        for (int p = 0; p < LANES; p++)
            height[p] = rows[i * LANES + p] > height[p] ? rows[i * LANES + p] : height[p];
#endif
}

/* Write the first of n rows that is at least `least`, or 0. */
ALWAYS_INLINE void first_from(
    const float *rows, ptrdiff_t n, const float *least, int32_t *first)
{
#if defined(__GNUC__)
    const lanes limit = *(const lanes *)least;
    integers found = {0};
    for (ptrdiff_t i = n - 1; i >= 0; i--) {
        integers enough = *(const lanes *)(rows + i * LANES) >= limit;
        found = ((int32_t)i & enough) | (found & ~enough);
    }
    *(integers *)first = found;
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
