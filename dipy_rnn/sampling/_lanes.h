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
