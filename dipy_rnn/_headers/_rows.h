/* Arithmetic on rows with vectors of WIDTH floats, for one kind of processor (TARGET).
   _lanes.h includes this file for each width, and describes the functions. */

#define NAMED_(name, width) name##_##width
#define NAMED(name, width) NAMED_(name, width)
#define FUNCTION(name) TARGET static NOT_INLINE void NAMED(name, WIDTH)
#define VECTOR NAMED(vector, WIDTH)
#define INTEGERS NAMED(integers, WIDTH)
#define AT(address) (*(VECTOR *)(address))
#define FROM(address) (*(const VECTOR *)(address))
/* Sums that are kept in registers: TILE outputs of two vectors each. */
#define TILE (WIDTH == 16 ? 8 : 4)

typedef float VECTOR __attribute__((vector_size(4 * WIDTH), aligned(4)));
typedef int32_t INTEGERS __attribute__((vector_size(4 * WIDTH), aligned(4)));

FUNCTION(weighted_sums)(
    const float *weights, const float *bias, ptrdiff_t n_in, ptrdiff_t n_out,
    const float *x, ptrdiff_t stride, float *out)
{
    for (ptrdiff_t o = 0; o < n_out; o += PANEL, weights += n_in * PANEL)
        for (int first = 0; first < PANEL; first += TILE)
            for (int p = 0; p < LANES; p += 2 * WIDTH) {
                const float *w = weights + first, *row = x + p;
                float *target = out + (o + first) * LANES + p;
                VECTOR left[TILE], right[TILE];
#pragma GCC unroll 8
                for (int k = 0; k < TILE; k++)
                    left[k] = right[k]
                        = (VECTOR){0} + (bias ? bias[o + first + k] : 0.0f);
                for (ptrdiff_t i = 0; i < n_in; i++, w += PANEL, row += stride) {
                    const VECTOR a = FROM(row), b = FROM(row + WIDTH);
#pragma GCC unroll 8
                    for (int k = 0; k < TILE; k++) {
                        left[k] += w[k] * a;
                        right[k] += w[k] * b;
                    }
                }
#pragma GCC unroll 8
                for (int k = 0; k < TILE; k++, target += LANES) {
                    AT(target) = left[k];
                    AT(target + WIDTH) = right[k];
                }
            }
}

/* The last vector of a row may overlap the one before: the same values are written
   twice. */
FUNCTION(blend)(
    const float *volume, const ptrdiff_t *offsets, const float *weights,
    ptrdiff_t n_rows, ptrdiff_t n, float *out)
{
    for (ptrdiff_t row = 0; row < n_rows; row++, offsets++, weights++, out += n) {
        const float *v0 = volume + offsets[0], *v1 = volume + offsets[LANES];
        const float *v2 = volume + offsets[2 * LANES], *v3 = volume + offsets[3 * LANES];
        const float *v4 = volume + offsets[4 * LANES], *v5 = volume + offsets[5 * LANES];
        const float *v6 = volume + offsets[6 * LANES], *v7 = volume + offsets[7 * LANES];
        const float w0 = weights[0], w1 = weights[LANES], w2 = weights[2 * LANES];
        const float w3 = weights[3 * LANES], w4 = weights[4 * LANES];
        const float w5 = weights[5 * LANES], w6 = weights[6 * LANES];
        const float w7 = weights[7 * LANES];

        for (ptrdiff_t c = 0; n >= WIDTH && c < n; c += WIDTH) {
            c = c < n - WIDTH ? c : n - WIDTH;
            AT(out + c) = ((w0 * FROM(v0 + c) + w1 * FROM(v1 + c))
                           + (w2 * FROM(v2 + c) + w3 * FROM(v3 + c)))
                + ((w4 * FROM(v4 + c) + w5 * FROM(v5 + c))
                   + (w6 * FROM(v6 + c) + w7 * FROM(v7 + c)));
        }
        for (ptrdiff_t c = 0; n < WIDTH && c < n; c++)
            out[c] = ((w0 * v0[c] + w1 * v1[c]) + (w2 * v2[c] + w3 * v3[c]))
                + ((w4 * v4[c] + w5 * v5[c]) + (w6 * v6[c] + w7 * v7[c]));
    }
}

FUNCTION(sparse_sums)(
    const int *starts, const int *columns, const float *values, ptrdiff_t n_rows,
    const float *x, float *out)
{
    for (ptrdiff_t row = 0; row < n_rows; row++, out += LANES)
        for (int p = 0; p < LANES; p += 2 * WIDTH) {
            VECTOR left = {0}, right = {0};
            for (int i = starts[row]; i < starts[row + 1]; i++) {
                const float *source = x + (ptrdiff_t)columns[i] * LANES + p;
                left += values[i] * FROM(source);
                right += values[i] * FROM(source + WIDTH);
            }
            AT(out + p) = left;
            AT(out + p + WIDTH) = right;
        }
}

FUNCTION(fourier_parts)(
    const float *values, ptrdiff_t stride, ptrdiff_t n, const float *first,
    const float *second, float *mean, float *cos_1, float *sin_1, float *cos_2,
    float *sin_2)
{
    const float share = 1.0f / n;

    for (int p = 0; p < LANES; p += WIDTH) {
        const float *row = values + p;
        VECTOR m = {0}, c1 = m, s1 = m, c2 = m, s2 = m;
        for (ptrdiff_t k = 0; k < n; k++, row += stride) {
            const VECTOR value = FROM(row);
            m += share * value;
            c1 += first[k] * value;
            s1 += first[n + k] * value;
            c2 += second[k] * value;
            s2 += second[n + k] * value;
        }
        AT(mean + p) = m;
        AT(cos_1 + p) = c1;
        AT(sin_1 + p) = s1;
        AT(cos_2 + p) = c2;
        AT(sin_2 + p) = s2;
    }
}

#define RAISE(top, row) \
    do { \
        const INTEGERS higher = row > top; \
        top = (VECTOR)(((INTEGERS)row & higher) | ((INTEGERS)top & ~higher)); \
    } while (0)

FUNCTION(raise_to)(const float *rows, ptrdiff_t n, float *height)
{
    for (int p = 0; p < LANES; p += WIDTH) {
        /* Two chains of comparisons run side by side. */
        VECTOR top = FROM(height + p), other = top;
        for (ptrdiff_t i = 0; i + 1 < n; i += 2) {
            const VECTOR even = FROM(rows + i * LANES + p);
            const VECTOR odd = FROM(rows + (i + 1) * LANES + p);
            RAISE(top, even);
            RAISE(other, odd);
        }
        if (n % 2) {
            const VECTOR last = FROM(rows + (n - 1) * LANES + p);
            RAISE(top, last);
        }
        RAISE(top, other);
        AT(height + p) = top;
    }
}

FUNCTION(add_and_raise)(
    const float *even, const float *odd, ptrdiff_t n, float *rows, float *height)
{
    enum { N = LANES / WIDTH };
    VECTOR top[N];
    for (int k = 0; k < N; k++)
        top[k] = FROM(height + k * WIDTH);
    for (ptrdiff_t i = 0; i < n; i++)
        for (int k = 0; k < N; k++) {
            const ptrdiff_t at = i * LANES + k * WIDTH;
            const VECTOR e = FROM(even + at), o = FROM(odd + at);
            const VECTOR sum = e + o, difference = e - o;
            AT(rows + at) = sum;
            AT(rows + n * LANES + at) = difference;
            RAISE(top[k], sum);
            RAISE(top[k], difference);
        }
    for (int k = 0; k < N; k++)
        AT(height + k * WIDTH) = top[k];
}
#undef RAISE

FUNCTION(first_from)(
    const float *rows, ptrdiff_t n, const float *least, int32_t *first)
{
    enum { N = LANES / WIDTH };
    VECTOR limit[N];
    INTEGERS missing[N], found[N];
    for (int k = 0; k < N; k++) {
        limit[k] = FROM(least + k * WIDTH);
        missing[k] = limit[k] == limit[k]; /* all, except NaN */
        found[k] = (INTEGERS){0};
    }
    for (ptrdiff_t i = 0; i < n; i++) {
        INTEGERS any = {0};
        for (int k = 0; k < N; k++) {
            const VECTOR row = FROM(rows + i * LANES + k * WIDTH);
            const INTEGERS here = missing[k] & (row >= limit[k]);
            found[k] |= (int32_t)i & here;
            missing[k] &= ~here;
            any |= missing[k];
        }
        if (i % 8 == 7) { /* often the first rows are enough */
            int32_t left = 0;
            for (int j = 0; j < WIDTH; j++)
                left |= any[j];
            if (!left)
                break;
        }
    }
    for (int k = 0; k < N; k++)
        *(INTEGERS *)(first + k * WIDTH) = found[k];
}

#undef NAMED_
#undef NAMED
#undef FUNCTION
#undef VECTOR
#undef INTEGERS
#undef AT
#undef FROM
#undef TILE
