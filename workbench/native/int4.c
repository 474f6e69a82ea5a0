/* The CPU kernels of the workbench that PyTorch does not have: int4 weights dequantized in blocks, and multiplied.
 *
 * The weight is in PyTorch's CPU layout: blocks of rows of N, then k, then bytes; a byte pairs two rows of its block,
 * j and j + block/2 ("halves") or 2j and 2j + 1 (see workbench/packing.py). w = (code - 8) * scale + zero in float32, the
 * product rounded, then the sum, then once to the result's dtype: bit for bit what the plain torch operations give.
 *
 * Compiled for the machine where it runs (workbench/native/builder.py), checked there against torch, called by ctypes.
 * Callers have checked all shapes. Numbers of elements are int64_t, strides too.
 */
#include <stdint.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512VBMI__) && defined(__AVX512BF16__)
#define WIDE 1
#include <immintrin.h>
#endif
#if defined(WIDE) && defined(__AMX_TILE__) && defined(__AMX_BF16__) && defined(__linux__)
#define TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { BFLOAT16 = 0, FLOAT16 = 1, FLOAT32 = 2 };   /* dtypes, as workbench/native/__init__.py numbers them */
enum { HAS_FUSED = 1, HAS_TILES = 2 };
enum { BLOCK = 64, TILE_ROWS = 16, TILE_K = 32, MAX_ROWS = 6, FEW = 6 };
enum { AHEAD = 4096, GROUPS_AHEAD = 3 }; /* what is asked for in advance, bytes of the weight and groups of scales */

static inline float from_bfloat16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

/* To nearest, ties to even; values are finite or infinite here, never NaN. */
static inline uint16_t to_bfloat16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float weight_of(unsigned code, float scale, float zero) { return (float)((int)code - 8) * scale + zero; }

static void read_scales(const uint16_t *pairs, int64_t rows, float *scale, float *zero) {
    for (int64_t j = 0; j < rows; j++) {
        scale[j] = from_bfloat16(pairs[2 * j]);
        zero[j] = from_bfloat16(pairs[2 * j + 1]);
    }
}

/* What this build can do on this machine; on Linux the kernel must be asked for the tile registers. */
int workbench_features(void) {
    int found = 0;
#ifdef WIDE
    found |= HAS_FUSED;
#endif
#ifdef TILES
    if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) == 0) found |= HAS_TILES;
#endif
    return found;
}

/* --- dequantizing ------------------------------------------------------------------------------------------------ */

/* One group of a block: bytes [group][half] -> out[k * stride + row], k along the group. */
static void group_to_bfloat16(const uint8_t *bytes, const uint16_t *pairs, int64_t group, int64_t half, int halves,
                              uint16_t *restrict out, int64_t stride) {
    float s[BLOCK], z[BLOCK];
    read_scales(pairs, 2 * half, s, z);
#ifdef WIDE
    if (half == 32 && halves) {
        const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
        __m512 S[4], Z[4];
        for (int c = 0; c < 4; c++) S[c] = _mm512_loadu_ps(s + 16 * c), Z[c] = _mm512_loadu_ps(z + 16 * c);
        for (int64_t k = 0; k < group; k++) {
            __m512 w[4];
            for (int c = 0; c < 2; c++) {
                __m512i both = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(bytes + 32 * k + 16 * c)));
                w[c] = _mm512_permutexvar_ps(both, values); /* reads the low 4 bits of each lane */
                w[c + 2] = _mm512_permutexvar_ps(_mm512_srli_epi32(both, 4), values);
            }
            for (int c = 0; c < 4; c++) w[c] = _mm512_add_ps(_mm512_mul_ps(w[c], S[c]), Z[c]);
            _mm512_storeu_si512((void *)(out + k * stride), (__m512i)_mm512_cvtne2ps_pbh(w[1], w[0]));
            _mm512_storeu_si512((void *)(out + k * stride + 32), (__m512i)_mm512_cvtne2ps_pbh(w[3], w[2]));
        }
        return;
    }
#endif
    for (int64_t k = 0; k < group; k++) {
        const uint8_t *b = bytes + k * half;
        uint16_t *o = out + k * stride;
        if (halves) {
            for (int64_t j = 0; j < half; j++) o[j] = to_bfloat16(weight_of(b[j] & 15, s[j], z[j]));
            for (int64_t j = 0; j < half; j++)
                o[j + half] = to_bfloat16(weight_of(b[j] >> 4, s[j + half], z[j + half]));
        } else {
            for (int64_t j = 0; j < half; j++) {
                o[2 * j] = to_bfloat16(weight_of(b[j] & 15, s[2 * j], z[2 * j]));
                o[2 * j + 1] = to_bfloat16(weight_of(b[j] >> 4, s[2 * j + 1], z[2 * j + 1]));
            }
        }
    }
}

static void group_to_float32(const uint8_t *bytes, const uint16_t *pairs, int64_t group, int64_t half, int halves,
                             float *restrict out, int64_t stride) {
    float s[BLOCK], z[BLOCK];
    read_scales(pairs, 2 * half, s, z);
    for (int64_t k = 0; k < group; k++) {
        const uint8_t *b = bytes + k * half;
        float *o = out + k * stride;
        if (halves) {
            for (int64_t j = 0; j < half; j++) o[j] = weight_of(b[j] & 15, s[j], z[j]);
            for (int64_t j = 0; j < half; j++) o[j + half] = weight_of(b[j] >> 4, s[j + half], z[j + half]);
        } else {
            for (int64_t j = 0; j < half; j++) {
                o[2 * j] = weight_of(b[j] & 15, s[2 * j], z[2 * j]);
                o[2 * j + 1] = weight_of(b[j] >> 4, s[2 * j + 1], z[2 * j + 1]);
            }
        }
    }
}

/* Rows first_row .. first_row + rows of the weight [n, k], transposed: out [k, rows] with `stride` between its rows.
 * first_row is a multiple of `block`. Threads take groups: what one writes lies together, and reads lie together too. */
void workbench_dequantize(const uint8_t *packed, const uint16_t *scales_and_zeros, int64_t n, int64_t k, int64_t group,
                          int64_t block, int halves, int64_t first_row, int64_t rows, void *out, int dtype,
                          int64_t stride, int threads) {
    (void)threads;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t g = 0; g < k / group; g++)
        for (int64_t row = 0; row < rows; row += block) {
            int64_t place = first_row + row, size = n - place < block ? n - place : block, half = size / 2;
            const uint8_t *bytes = packed + place * (k / 2) + g * group * half;
            const uint16_t *pairs = scales_and_zeros + (g * n + place) * 2;
            int64_t start = g * group * stride + row;
            int paired = halves && size == block; /* a tail always pairs neighbours */
            if (dtype == BFLOAT16) group_to_bfloat16(bytes, pairs, group, half, paired, (uint16_t *)out + start, stride);
            else group_to_float32(bytes, pairs, group, half, paired, (float *)out + start, stride);
        }
}

/* --- multiplying ------------------------------------------------------------------------------------------------- */

#ifdef WIDE

/* x [m, k] of `dtype` -> one tile row of A [m/height][k/32][height][32] in bfloat16; what lies beyond x is 0. */
static void pack_tile_row(const void *x, int dtype, int64_t m, int64_t k, int64_t k_padded, int64_t height,
                          int64_t tile, uint16_t *a) {
    int64_t tiles = k_padded / TILE_K;
    for (int64_t r = 0; r < height; r++)
        for (int64_t t = 0; t < tiles; t++) {
            int64_t row = tile * height + r, at = row * k + t * TILE_K, left = k - t * TILE_K;
            uint32_t mask = row >= m || left <= 0 ? 0 : (left >= 32 ? 0xffffffffu : (1u << left) - 1);
            __m512i value;
            if (dtype == BFLOAT16) {
                value = _mm512_maskz_loadu_epi16(mask, (const uint16_t *)x + at);
            } else if (dtype == FLOAT32) {
                const float *p = (const float *)x + at;
                value = (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps((__mmask16)(mask >> 16), p + 16),
                                                     _mm512_maskz_loadu_ps((__mmask16)mask, p));
            } else {
                const uint16_t *p = (const uint16_t *)x + at;
                value = (__m512i)_mm512_cvtne2ps_pbh(
                    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)(mask >> 16), p + 16)),
                    _mm512_cvtph_ps(_mm256_maskz_loadu_epi16((__mmask16)mask, p)));
            }
            _mm512_storeu_si512((void *)(a + ((tile * tiles + t) * height + r) * TILE_K), value);
        }
}

/* One group of a block of 64 rows -> B [k/32][4][16][16][2]: tiles of 16 rows of the weight, pairs of k side by side. */
static void group_to_tiles(const uint8_t *bytes, const uint16_t *pairs, int64_t group, uint16_t *b) {
    const __m512 values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    float s[BLOCK], z[BLOCK], twice_s[2 * BLOCK], twice_z[2 * BLOCK];
    __m512 S[8], Z[8];
    read_scales(pairs, BLOCK, s, z);
    for (int j = 0; j < 2 * BLOCK; j++) twice_s[j] = s[j / 2], twice_z[j] = z[j / 2];
    for (int c = 0; c < 8; c++) S[c] = _mm512_loadu_ps(twice_s + 16 * c), Z[c] = _mm512_loadu_ps(twice_z + 16 * c);
    for (int64_t k = 0; k < group; k += 2) {
        uint16_t *out = b + k / TILE_K * 4 * 512 + k % TILE_K / 2 * 32;
        _mm_prefetch((const char *)bytes + k * 32 + AHEAD, _MM_HINT_T0);
        for (int h = 0; h < 2; h++) { /* bytes 16h to 16h + 15 of k and of k + 1: rows 16h.. and 32 + 16h.. */
            __m128i even = _mm_loadu_si128((const __m128i *)(bytes + k * 32 + 16 * h));
            __m128i odd = _mm_loadu_si128((const __m128i *)(bytes + k * 32 + 32 + 16 * h));
            __m512i both[2] = {_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(even, odd)),
                               _mm512_cvtepu8_epi32(_mm_unpackhi_epi8(even, odd))};
            __m512 w[4];
            for (int i = 0; i < 2; i++) {
                int low = 2 * h + i, high = 4 + 2 * h + i;
                w[i] = _mm512_permutexvar_ps(both[i], values);
                w[i] = _mm512_add_ps(_mm512_mul_ps(w[i], S[low]), Z[low]);
                w[2 + i] = _mm512_permutexvar_ps(_mm512_srli_epi32(both[i], 4), values);
                w[2 + i] = _mm512_add_ps(_mm512_mul_ps(w[2 + i], S[high]), Z[high]);
            }
            _mm512_storeu_si512((void *)(out + h * 512), (__m512i)_mm512_cvtne2ps_pbh(w[1], w[0]));
            _mm512_storeu_si512((void *)(out + (h + 2) * 512), (__m512i)_mm512_cvtne2ps_pbh(w[3], w[2]));
        }
    }
}

/* The same for the tail of fewer than 64 rows, whose bytes pair neighbours; rows that are not there are 0. */
static void tail_to_tiles(const uint8_t *bytes, const uint16_t *pairs, int64_t group, int64_t rows, uint16_t *b) {
    float s[BLOCK] = {0}, z[BLOCK] = {0};
    read_scales(pairs, rows, s, z);
    for (int64_t k = 0; k < group; k++)
        for (int64_t j = 0; j < BLOCK; j++) {
            unsigned byte = j < rows ? bytes[k * (rows / 2) + j / 2] : 0x88;
            float w = weight_of(j % 2 ? byte >> 4 : byte & 15, s[j], z[j]);
            b[((k / TILE_K * 4 + j / 16) * 16 + k % TILE_K / 2) * 32 + j % 16 * 2 + k % 2] = to_bfloat16(w);
        }
}

static void store_rows(void *y, int dtype, int64_t m, int64_t n, int64_t first, const float *c) {
    int64_t columns = n - first < BLOCK ? n - first : BLOCK;
    for (int64_t row = 0; row < m; row++)
        for (int64_t j = 0; j < columns; j += 16) {
            __m512 value = _mm512_loadu_ps(c + row * BLOCK + j);
            int64_t at = row * n + first + j, left = columns - j;
            __mmask16 mask = (__mmask16)(left >= 16 ? 0xffff : (1u << left) - 1);
            if (dtype == FLOAT32) _mm512_mask_storeu_ps((float *)y + at, mask, value);
            else if (dtype == BFLOAT16)
                _mm256_mask_storeu_epi16((uint16_t *)y + at, mask, (__m256i)_mm512_cvtneps_pbh(value));
            else _mm256_mask_storeu_epi16((uint16_t *)y + at, mask, _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
        }
}

/* C [rows, 64] (+)= rows of A times B, k in tiles; R accumulators of 64 columns stay in registers. */
static inline __attribute__((always_inline)) void dot_rows(const uint16_t *a, int64_t tiles, int64_t row, int R,
                                                           int64_t steps, const uint16_t *b, float *c, int first) {
    __m512 sum[MAX_ROWS][4];
    const uint16_t *rows[MAX_ROWS];
    for (int r = 0; r < R; r++) {
        rows[r] = a + ((row + r) / TILE_ROWS * tiles * TILE_ROWS + (row + r) % TILE_ROWS) * TILE_K;
        for (int j = 0; j < 4; j++)
            sum[r][j] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(c + (row + r) * BLOCK + 16 * j);
    }
    for (int64_t step = 0; step < steps; step++)
        for (int i = 0; i < 16; i++) {
            __m512bh w[4];
            for (int j = 0; j < 4; j++)
                w[j] = (__m512bh)_mm512_loadu_si512((const void *)(b + step * 2048 + j * 512 + i * 32));
            for (int r = 0; r < R; r++) {
                int32_t pair;
                memcpy(&pair, rows[r] + step * 512 + 2 * i, 4);
                __m512bh x = (__m512bh)_mm512_set1_epi32(pair);
                for (int j = 0; j < 4; j++) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], x, w[j]);
            }
        }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(c + (row + r) * BLOCK + 16 * j, sum[r][j]);
}

static void dot_block(const uint16_t *a, int64_t tiles, int64_t m, int64_t steps, const uint16_t *b, float *c, int first) {
    int64_t row = 0;
    for (; row + MAX_ROWS <= m; row += MAX_ROWS) dot_rows(a, tiles, row, MAX_ROWS, steps, b, c, first);
    switch (m - row) {
    case 5: dot_rows(a, tiles, row, 5, steps, b, c, first); break;
    case 4: dot_rows(a, tiles, row, 4, steps, b, c, first); break;
    case 3: dot_rows(a, tiles, row, 3, steps, b, c, first); break;
    case 2: dot_rows(a, tiles, row, 2, steps, b, c, first); break;
    case 1: dot_rows(a, tiles, row, 1, steps, b, c, first); break;
    }
}

/* --- few rows of x: the codes themselves are multiplied, exact in bfloat16, and the sum of a group is scaled -------- */

/* Two successive k of a block of 64 rows, or of fewer in a tail, as pairs of bfloat16: [4][16][2], 16 columns each. */
typedef struct {
    __m512i first, second, values;
    __mmask64 mask;
} Spread;

static Spread spread_of(int64_t rows) {
    uint8_t order[128];
    uint16_t codes[32];
    for (int i = 0; i < 128; i++) order[i] = (uint8_t)(i / 4 % 32 + i / 2 % 2 * (rows / 2)); /* word (k, k + 1) pairs */
    for (int i = 0; i < 32; i++) codes[i] = to_bfloat16((float)(i % 16 - 8)); /* twice: bit 4 is of the other nibble */
    Spread found = {_mm512_loadu_si512((const void *)order), _mm512_loadu_si512((const void *)(order + 64)),
                    _mm512_loadu_si512((const void *)codes), rows == BLOCK ? ~0ull : (1ull << rows) - 1};
    return found;
}

static inline __attribute__((always_inline)) void spread_codes(Spread how, const uint8_t *bytes, __m512bh w[4]) {
    _mm_prefetch((const char *)bytes + AHEAD, _MM_HINT_T0);
    __m512i both = _mm512_maskz_loadu_epi8(how.mask, bytes);
    __m512i first = _mm512_permutexvar_epi8(how.first, both), second = _mm512_permutexvar_epi8(how.second, both);
    w[0] = (__m512bh)_mm512_permutexvar_epi16(first, how.values);
    w[1] = (__m512bh)_mm512_permutexvar_epi16(second, how.values);
    w[2] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(first, 4), how.values);
    w[3] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi16(second, 4), how.values);
}

/* Scale and zero of a block in the order of `spread_codes`: low nibbles, then high ones. A tail pairs neighbours. */
static inline void ordered_pairs(const uint16_t *pairs, int64_t rows, __m512 scale[4], __m512 zero[4]) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    __m512i both[4];
    if (rows == BLOCK) {
        for (int j = 0; j < 4; j++) both[j] = _mm512_loadu_si512((const void *)(pairs + 32 * j));
    } else
        for (int j = 0; j < 2; j++) {
            int64_t left = rows - 32 * j;
            uint32_t mask = left >= 32 ? 0xffffffffu : (left > 0 ? (1u << left) - 1 : 0);
            __m512i low = _mm512_maskz_loadu_epi32((__mmask16)mask, pairs + 64 * j);
            __m512i high = _mm512_maskz_loadu_epi32((__mmask16)(mask >> 16), pairs + 64 * j + 32);
            both[j] = _mm512_permutex2var_epi32(low, even, high);
            both[j + 2] = _mm512_permutex2var_epi32(low, odd, high);
        }
    for (int j = 0; j < 4; j++) {
        scale[j] = _mm512_castsi512_ps(_mm512_slli_epi32(both[j], 16));
        zero[j] = _mm512_castsi512_ps(_mm512_and_si512(both[j], _mm512_set1_epi32((int)0xffff0000)));
    }
}

/* Ask for scales and zeros of a block: they lie 4 n bytes after those of the group before, where no processor looks. */
static inline void prefetch_pairs(const uint16_t *pairs) {
    for (int j = 0; j < 4; j++) _mm_prefetch((const char *)(pairs + 32 * j), _MM_HINT_T0);
}

/* The columns of a tail in their own order. */
static void reorder_tail(float *c, int64_t count) {
    float old[BLOCK];
    for (int64_t row = 0; row < count; row++) {
        memcpy(old, c + row * BLOCK, sizeof(old));
        for (int i = 0; i < BLOCK; i++) c[row * BLOCK + i] = old[i % 2 * 32 + i / 2];
    }
}

/* The sums over each group of m rows of A, one row of tiles: [k/group][m]: what the zeros are multiplied with. */
static void sum_groups(const uint16_t *a, int64_t height, int64_t m, int64_t k, int64_t group, float *sums) {
    const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
    int64_t tiles = k / TILE_K, steps = group / TILE_K;
    for (int64_t r = 0; r < m; r++)
        for (int64_t t = 0; t < tiles; t += steps) {
            __m512 sum = _mm512_setzero_ps();
            for (int64_t i = t; i < t + steps; i++) {
                const uint16_t *x = a + (i * height + r) * TILE_K;
                sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512((const void *)x), ones);
            }
            sums[t / steps * m + r] = _mm512_reduce_add_ps(sum);
        }
}

/* C [R, 64] = A, in tiles of R rows, times a block of the weight, of 64 rows or fewer; columns in the order of `spread_codes`. */
static inline __attribute__((always_inline)) void few_rows(const uint16_t *a, const float *sums, int R,
                                                           const uint8_t *bytes, int64_t rows, const uint16_t *pairs,
                                                           int64_t n, int64_t k, int64_t group, float *c) {
    const Spread how = spread_of(rows);
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 4; j++) _mm512_storeu_ps(c + r * BLOCK + 16 * j, _mm512_setzero_ps());
    for (int64_t g = 0; g < k / group; g++, pairs += 2 * n, sums += R) {
        __m512 sum[FEW][4], scale[4], zero[4];
        for (int r = 0; r < R; r++)
            for (int j = 0; j < 4; j++) sum[r][j] = _mm512_setzero_ps();
        prefetch_pairs(pairs + GROUPS_AHEAD * 2 * n);
        for (int64_t step = 0; step < group / TILE_K; step++, a += R * TILE_K)
            for (int i = 0; i < TILE_K; i += 2, bytes += rows) {
                __m512bh w[4];
                spread_codes(how, bytes, w);
                for (int r = 0; r < R; r++) {
                    int32_t pair;
                    memcpy(&pair, a + r * TILE_K + i, 4);
                    __m512bh repeated = (__m512bh)_mm512_set1_epi32(pair);
                    for (int j = 0; j < 4; j++) sum[r][j] = _mm512_dpbf16_ps(sum[r][j], repeated, w[j]);
                }
            }
        ordered_pairs(pairs, rows, scale, zero);
        for (int r = 0; r < R; r++)
            for (int j = 0; j < 4; j++) {
                float *total = c + r * BLOCK + 16 * j;
                __m512 shifted = _mm512_fmadd_ps(zero[j], _mm512_set1_ps(sums[r]), _mm512_loadu_ps(total));
                _mm512_storeu_ps(total, _mm512_fmadd_ps(scale[j], sum[r][j], shifted));
            }
    }
}

static void few_block(const uint16_t *a, const float *sums, int64_t m, const uint8_t *bytes, int64_t rows,
                      const uint16_t *pairs, int64_t n, int64_t k, int64_t group, float *c) {
    switch (m) {
    case 1: few_rows(a, sums, 1, bytes, rows, pairs, n, k, group, c); break;
    case 2: few_rows(a, sums, 2, bytes, rows, pairs, n, k, group, c); break;
    case 3: few_rows(a, sums, 3, bytes, rows, pairs, n, k, group, c); break;
    case 4: few_rows(a, sums, 4, bytes, rows, pairs, n, k, group, c); break;
    case 5: few_rows(a, sums, 5, bytes, rows, pairs, n, k, group, c); break;
    default: few_rows(a, sums, 6, bytes, rows, pairs, n, k, group, c);
    }
}

#ifdef TILES

typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t bytes_per_row[16];
    uint8_t rows[16];
} TileConfig;

/* Registers 0 to 3 accumulate, 4 and 5 hold x, 6 and 7 the weight; few rows of x need few rows of a tile. */
static void configure_tiles(int64_t m) {
    TileConfig config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int i = 0; i < 8; i++) {
        config.bytes_per_row[i] = 64;
        config.rows[i] = (uint8_t)(i < 6 && m < TILE_ROWS ? m : TILE_ROWS);
    }
    __asm__ volatile("" : : "r"(&config) : "memory"); /* gcc 12 takes the next line to read 8 bytes, and drops the rest */
    _tile_loadconfig(&config);
}

#define C_STRIDE (BLOCK * 4)
#define START(number, place) \
    if (first) _tile_zero(number); else _tile_loadd(number, place, C_STRIDE)

static void tile_block(const uint16_t *a, int64_t tiles, int64_t rows, int64_t steps, const uint16_t *b, float *c,
                       int first) {
    int64_t row = 0;
    for (; row + 2 <= rows; row += 2) /* 32 rows of x by 32 of the weight */
        for (int j = 0; j < 4; j += 2) {
            float *upper = c + row * TILE_ROWS * BLOCK + 16 * j, *lower = upper + TILE_ROWS * BLOCK;
            const uint16_t *x0 = a + row * tiles * 512, *x1 = x0 + tiles * 512, *w = b + j * 512;
            START(0, upper); START(1, upper + 16); START(2, lower); START(3, lower + 16);
            for (int64_t step = 0; step < steps; step++) {
                _tile_loadd(4, x0 + step * 512, 64);
                _tile_loadd(6, w + step * 2048, 64);
                _tile_loadd(7, w + step * 2048 + 512, 64);
                _tile_loadd(5, x1 + step * 512, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, upper, C_STRIDE); _tile_stored(1, upper + 16, C_STRIDE);
            _tile_stored(2, lower, C_STRIDE); _tile_stored(3, lower + 16, C_STRIDE);
        }
    if (row < rows) { /* 16 rows of x by all 64 of the weight */
        float *place = c + row * TILE_ROWS * BLOCK;
        const uint16_t *x0 = a + row * tiles * 512;
        START(0, place); START(1, place + 16); START(2, place + 32); START(3, place + 48);
        for (int64_t step = 0; step < steps; step++) {
            const uint16_t *w = b + step * 2048;
            _tile_loadd(4, x0 + step * 512, 64);
            _tile_loadd(6, w, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, w + 512, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(6, w + 1024, 64);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(7, w + 1536, 64);
            _tile_dpbf16ps(3, 4, 7);
        }
        _tile_stored(0, place, C_STRIDE); _tile_stored(1, place + 16, C_STRIDE);
        _tile_stored(2, place + 32, C_STRIDE); _tile_stored(3, place + 48, C_STRIDE);
    }
}

/* The codes of 32 k of a block -> B [4][16][16][2]. */
static inline __attribute__((always_inline)) void codes_to_tiles(Spread how, const uint8_t *bytes, int64_t rows,
                                                                 uint16_t *b) {
    for (int i = 0; i < 16; i++, bytes += rows) {
        __m512bh w[4];
        spread_codes(how, bytes, w);
        for (int j = 0; j < 4; j++) _mm512_storeu_si512((void *)(b + j * 512 + i * 32), (__m512i)w[j]);
    }
}

/* C += scale * product + zero * sum, [m, 64]. */
static inline void scale_group(const uint16_t *pairs, int64_t rows, const float *sums, int64_t m, const float *product,
                               float *c) {
    __m512 scale[4], zero[4];
    ordered_pairs(pairs, rows, scale, zero);
    for (int64_t r = 0; r < m; r++) {
        __m512 all = _mm512_set1_ps(sums[r]);
        for (int j = 0; j < 4; j++) {
            int64_t at = r * BLOCK + 16 * j;
            __m512 shifted = _mm512_fmadd_ps(zero[j], all, _mm512_loadu_ps(c + at));
            _mm512_storeu_ps(c + at, _mm512_fmadd_ps(scale[j], _mm512_loadu_ps(product + at), shifted));
        }
    }
}

/* `few_block` with the matrix unit, m up to 16: while it multiplies 32 k the next are spread; a group is scaled when
 * the next one has been multiplied. b: 2 of [4][16][16][2]; product: 2 of [16, 64]. */
static void few_tiles(const uint16_t *a, int64_t height, const float *sums, int64_t m, const uint8_t *bytes, int64_t rows,
                      const uint16_t *pairs, int64_t n, int64_t k, int64_t group, uint16_t *b, float *product, float *c) {
    const Spread how = spread_of(rows);
    int64_t tiles = k / TILE_K, steps = group / TILE_K;
    for (int64_t i = 0; i < m * BLOCK; i += 16) _mm512_storeu_ps(c + i, _mm512_setzero_ps());
    codes_to_tiles(how, bytes, rows, b);
    for (int64_t start = 0; start < tiles; start += steps) {
        float *here = product + start / steps % 2 * TILE_ROWS * BLOCK, *before = product + (start / steps + 1) % 2 * TILE_ROWS * BLOCK;
        prefetch_pairs(pairs + GROUPS_AHEAD * 2 * n);
        _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
        for (int64_t t = start; t < start + steps; t++) {
            const uint16_t *w = b + t % 2 * 2048;
            if (t + 1 < tiles) codes_to_tiles(how, bytes + (t + 1) * 16 * rows, rows, b + (t + 1) % 2 * 2048);
            _tile_loadd(4, a + t * height * TILE_K, 64);
            _tile_loadd(6, w, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, w + 512, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(6, w + 1024, 64);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(7, w + 1536, 64);
            _tile_dpbf16ps(3, 4, 7);
        }
        _tile_stored(0, here, C_STRIDE); _tile_stored(1, here + 16, C_STRIDE);
        _tile_stored(2, here + 32, C_STRIDE); _tile_stored(3, here + 48, C_STRIDE);
        if (start > 0) {
            scale_group(pairs, rows, sums, m, before, c);
            pairs += 2 * n, sums += m;
        }
    }
    scale_group(pairs, rows, sums, m, product + (tiles / steps - 1) % 2 * TILE_ROWS * BLOCK, c);
}
#endif

/* Scratch of `workbench_few` for each thread: x as A, twice 32 k of the weight as B, three results, sums of groups. */
int64_t workbench_few_bytes(int64_t m, int64_t k, int64_t group) {
    int64_t padded = m < TILE_ROWS ? m : (m + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    int64_t bytes = 2 * padded * k + 4 * TILE_K * BLOCK + 4 * (padded + 2 * TILE_ROWS) * BLOCK + 4 * m * (k / group);
    return (bytes + 63) / 64 * 64;
}

/* y [m, n_out] of `dtype` = x [m, k] of `dtype` times the transposed weight [n, k_padded] in blocks of 64 "halves".
 *
 * For few rows: no weight is dequantized; sums over groups are scaled. m is at most FEW, with the matrix unit 16.
 * scratch: what `workbench_few_bytes` says. */
void workbench_few(const void *x, int dtype, int64_t m, int64_t k, const uint8_t *packed,
                   const uint16_t *scales_and_zeros, int64_t n, int64_t k_padded, int64_t group, int64_t n_out, void *y,
                   uint8_t *scratch, int use_tiles, int threads) {
    int64_t height = m < TILE_ROWS ? m : TILE_ROWS, padded = (m + height - 1) / height * height;
    int64_t groups = k_padded / group;
    int64_t per_thread = workbench_few_bytes(m, k_padded, group);
    (void)threads;
    (void)use_tiles;
#pragma omp parallel num_threads(threads)
    {
        int thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
        uint16_t *a = (uint16_t *)(scratch + thread * per_thread), *b = a + padded * k_padded;
        float *c = (float *)(b + 2 * TILE_K * BLOCK), *product = c + padded * BLOCK;
        float *sums = product + 2 * TILE_ROWS * BLOCK;
        for (int64_t tile = 0, row = 0; row < m; tile++, row += height) {
            pack_tile_row(x, dtype, m, k, k_padded, height, tile, a);
            sum_groups(a + row * k_padded, height, m - row < height ? m - row : height, k_padded, group,
                       sums + row * groups);
        }
#ifdef TILES
        if (use_tiles) configure_tiles(m);
#endif
#pragma omp for schedule(static) nowait
        for (int64_t first = 0; first < n; first += BLOCK) {
            int64_t rows = n - first < BLOCK ? n - first : BLOCK;
            const uint8_t *bytes = packed + first * (k_padded / 2);
            const uint16_t *pairs = scales_and_zeros + first * 2;
#ifdef TILES
            for (int64_t row = 0; use_tiles && row < m; row += height) /* the block stays in the cache */
                few_tiles(a + row * k_padded, height, sums + row * groups, m - row < height ? m - row : height, bytes,
                          rows, pairs, n, k_padded, group, b, product, c + row * BLOCK);
            if (!use_tiles)
#endif
                few_block(a, sums, m, bytes, rows, pairs, n, k_padded, group, c);
            if (rows < BLOCK) reorder_tail(c, m);
            store_rows(y, dtype, m, n_out, first, c);
        }
#ifdef TILES
        if (use_tiles) _tile_release();
#endif
    }
}

/* y [m, n_out] of `dtype` = x [m, k] of `dtype` times the transposed weight [n, k_padded] in blocks of 64 "halves".
 *
 * Each thread dequantizes `chunk` columns of a block of 64 rows into its cache and multiplies all of x with them.
 * packed_x: bfloat16 [copies, m rounded up to 16, k_padded]; with a copy for each thread none waits for another before
 * it begins, which few rows are worth. scratch: for each thread chunk * 64 bfloat16, then [m rounded up to 16, 64]
 * float32. chunk is a multiple of the group size. */
void workbench_linear(const void *x, int dtype, int64_t m, int64_t k, const uint8_t *packed,
                      const uint16_t *scales_and_zeros, int64_t n, int64_t k_padded, int64_t group, int64_t n_out,
                      void *y, uint16_t *packed_x, int own_copies, uint8_t *scratch, int64_t chunk, int use_tiles,
                      int threads) {
    int64_t tile_rows = (m + TILE_ROWS - 1) / TILE_ROWS, tiles = k_padded / TILE_K;
    int64_t per_thread = chunk * BLOCK * 2 + tile_rows * TILE_ROWS * BLOCK * 4;
    (void)threads;
    (void)use_tiles;
#pragma omp parallel num_threads(threads)
    {
        int thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
        uint16_t *b = (uint16_t *)(scratch + thread * per_thread);
        float *c = (float *)(scratch + thread * per_thread + chunk * BLOCK * 2);
        uint16_t *own_x = packed_x + (own_copies ? thread * tile_rows * TILE_ROWS * k_padded : 0);
        if (own_copies) {
            for (int64_t tile = 0; tile < tile_rows; tile++) pack_tile_row(x, dtype, m, k, k_padded, TILE_ROWS, tile, own_x);
        } else {
#pragma omp for schedule(static)
            for (int64_t tile = 0; tile < tile_rows; tile++) pack_tile_row(x, dtype, m, k, k_padded, TILE_ROWS, tile, own_x);
        }
#ifdef TILES
        if (use_tiles) configure_tiles(m);
#endif
#pragma omp for schedule(static) nowait
        for (int64_t first = 0; first < n; first += BLOCK) {
            int64_t rows = n - first < BLOCK ? n - first : BLOCK;
            for (int64_t start = 0; start < k_padded; start += chunk) {
                int64_t stop = start + chunk < k_padded ? start + chunk : k_padded;
                for (int64_t at = start; at < stop; at += group) {
                    const uint8_t *bytes = packed + first * (k_padded / 2) + at * (rows / 2);
                    const uint16_t *pairs = scales_and_zeros + (at / group * n + first) * 2;
                    if (rows == BLOCK) group_to_tiles(bytes, pairs, group, b + (at - start) * BLOCK);
                    else tail_to_tiles(bytes, pairs, group, rows, b + (at - start) * BLOCK);
                }
                const uint16_t *a = own_x + start / TILE_K * 512;
#ifdef TILES
                if (use_tiles) tile_block(a, tiles, tile_rows, (stop - start) / TILE_K, b, c, start == 0);
                else
#endif
                    dot_block(a, tiles, m, (stop - start) / TILE_K, b, c, start == 0);
            }
            store_rows(y, dtype, m, n_out, first, c);
        }
#ifdef TILES
        if (use_tiles) _tile_release();
#endif
    }
}

#endif
