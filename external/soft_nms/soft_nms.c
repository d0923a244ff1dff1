/* Soft-NMS (Bodla et al., ICCV 2017) and CornerNet's merging variant, as computed by CornerNet's released code.

   The results are equal to the release's to the last bit. To this end the arithmetic is float32, except that
   expressions to which 1.0 is added are evaluated in double before they are rounded to float32. The file must be built
   with -ffp-contract=off, so that the compiler does not fuse multiplications and additions.

   The boxes of a class are stored as one array per coordinate, and processed in blocks of BLOCK boxes by loops that
   compilers vectorise. Array elements without a box (dropped boxes, and the padding to a multiple of BLOCK) hold a
   dummy that intersects no box and has a score of -infinity. */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _MSC_VER
#define restrict __restrict
#endif
/* Function multiversioning: compiled for several instruction sets, of which the best is selected when the module is
   loaded. All versions compute the same results. */
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GLIBC__) && (defined(__GNUC__) && !defined(__clang__))
#define VERSIONS __attribute__((target_clones("avx512f", "avx2", "default")))
#define INLINE static inline __attribute__((always_inline))
#else
#define VERSIONS
#define INLINE static inline
#endif

enum { HARD, LINEAR, GAUSSIAN };
enum { X1, Y1, X2, Y2, SCORE, FIRST_CORNER_SCORE };
enum { BLOCK = 32, ALIGNED = 64 };
enum { MERGED = 1, DROPPED = 2 }; /* flags in a box's state: it is averaged into the selected box; it is dropped */

typedef struct {
  int method;
  float sigma, overlap, floor_score;
  int merge;
  float exponent;
} options;

/* The boxes of a class that are not selected yet, indexed by row. The length of all arrays is a multiple of BLOCK. */
typedef struct {
  float *x1, *y1, *x2, *y2, *area, *score;
  float *next_score, *decay; /* scores after the decay by the selected box, and its factors */
  int32_t *state;            /* MERGED and DROPPED flags, set by the selected box */
  int32_t *busy;             /* per block: whether it has boxes with flags */
} candidates;

enum { ARRAYS = 10 };

/* Weighted sum of one corner's coordinates over the boxes a kept box suppresses. */
typedef struct {
  float weight, x, y;
} corner_sum;

static void add_corner(corner_sum *sum, float score, float x, float y, float weight) {
  sum->weight += weight * score;
  sum->x += weight * (score * x);
  sum->y += weight * (score * y);
}

/* A bound on 1 - decay below which a box does not change the rounded corner sums: its weight times the largest corner
   score and coordinate of the class is less than half an ulp of every sum, with a safety factor of 2 for the rounding
   of the products. The bound holds while the sums do not decrease, which requires that largest is not NAN. Returns 0,
   so that no box is skipped, where no bound can be given. */
static float negligible_loss(const corner_sum *corners, float largest, float exponent) {
  float smallest = INFINITY;
  for (int corner = 0; corner < 2; ++corner) {
    const corner_sum *sum = corners + corner;
    smallest = fminf(smallest, fminf(sum->weight, fminf(sum->x, sum->y)));
  }
  if (!(smallest > 1e-30f) || !(largest >= 0) || !(exponent > 0)) return 0;
  return 0.999f * powf(0x1p-26f * smallest / largest, 1 / exponent);
}

/* An upper bound on corner score * max(coordinate, 1) over the boxes of a class; NAN if a corner score or coordinate is
   negative. */
static float largest_product(const float *rows, int64_t n, int64_t columns) {
  float score = 0, coordinate = 1;
  for (int64_t i = 0; i < n; ++i) {
    const float *row = rows + i * columns;
    for (int c = 0; c < SCORE; ++c) {
      if (!(row[c] >= 0)) return NAN;
      coordinate = fmaxf(coordinate, row[c]);
    }
    for (int c = FIRST_CORNER_SCORE; c < FIRST_CORNER_SCORE + 2; ++c) {
      if (!(row[c] >= 0)) return NAN;
      score = fmaxf(score, row[c]);
    }
  }
  return score * coordinate;
}

/* out = (float)exp((double)x) for a block, equal to the C library's result to the last bit. The polynomial here has a
   relative error of 2^-45. Elements whose rounding to float is not certain with that error are recomputed by the C
   library. */
INLINE void exp_block(const float *restrict x, float *restrict out) {
  int32_t inexact[BLOCK], any = 0;
  for (int l = 0; l < BLOCK; ++l) {
    const double shift = 0x1.8p52; /* adding it rounds to an integer, which is in the low bits */
    const double d = x[l], shifted = d * 0x1.71547652b82fep0 + shift, k = shifted - shift;
    const double r = (d - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33; /* ln 2 is split after 32 bits */
    double p = 1.0 / 39916800; /* Taylor series; for |r| <= ln(2) / 2 the remainder is 2^-47 */
    p = p * r + 1.0 / 3628800;
    p = p * r + 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 1.0 / 2;
    p = p * r + 1.0;
    p = p * r + 1.0;
    uint64_t bits, exponent;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&exponent, &shifted, sizeof exponent);
    bits += exponent << 52;
    memcpy(&p, &bits, sizeof p);
    out[l] = (float)p;
    /* Rounding to float drops 29 bits. It is uncertain if these are within 512 of the halfway point. The library also
       computes results below the normal numbers of float, and NaNs. */
    const int32_t half = (int32_t)(bits & 0x1fffffff) - 0x10000000;
    inexact[l] = ((half > -512) & (half < 512)) | !((x[l] >= -87.0f) & (x[l] <= 0.0f));
    any |= inexact[l];
  }
  if (!any) return;
  for (int l = 0; l < BLOCK; ++l) {
    if (inexact[l]) out[l] = (float)exp((double)x[l]);
  }
}

/* Decays the scores of the block that starts at row `first` by the selected box: reads the score array, and writes
   next_score, decay, state and busy. area: of the selected box. negligible: see negligible_loss. best: element l is
   updated with the score of the block's box l, if it is not dropped. */
INLINE void decay_block(const candidates *all, int64_t first, const float *box, double area, float negligible,
                        const options *o, float *restrict best) {
  const float *restrict x1 = all->x1 + first, *restrict y1 = all->y1 + first;
  const float *restrict x2 = all->x2 + first, *restrict y2 = all->y2 + first;
  const float *restrict areas = all->area + first, *restrict score = all->score + first;
  float *restrict next = all->next_score + first, *restrict decay = all->decay + first;
  int32_t *restrict state = all->state + first;
  const float box_x1 = box[X1], box_y1 = box[Y1], box_x2 = box[X2], box_y2 = box[Y2];
  float width[BLOCK], height[BLOCK], iou[BLOCK];
  int32_t meets[BLOCK], any = 0;
  for (int l = 0; l < BLOCK; ++l) {
    /* 1.0f in place of the release's 1.0 gives the same result: double has more than twice the precision of float, so
       that a double sum rounded to float equals the float sum */
    width[l] = (box_x2 < x2[l] ? box_x2 : x2[l]) - (box_x1 > x1[l] ? box_x1 : x1[l]) + 1.0f;
    height[l] = (box_y2 < y2[l] ? box_y2 : y2[l]) - (box_y1 > y1[l] ? box_y1 : y1[l]) + 1.0f;
    meets[l] = (width[l] > 0) & (height[l] > 0);
    any |= meets[l];
  }
  if (!any) {
    memcpy(next, score, BLOCK * sizeof *next);
    memset(state, 0, BLOCK * sizeof *state);
    for (int l = 0; l < BLOCK; ++l) best[l] = score[l] > best[l] ? score[l] : best[l];
    all->busy[first / BLOCK] = 0;
    return;
  }
  for (int l = 0; l < BLOCK; ++l) {
    const float intersection = width[l] * height[l];
    iou[l] = intersection / (float)(area + areas[l] - intersection);
  }
  if (o->method == GAUSSIAN) {
    const float sigma = o->sigma;
    float x[BLOCK];
    for (int l = 0; l < BLOCK; ++l) x[l] = meets[l] ? -(iou[l] * iou[l]) / sigma : 0.0f;
    exp_block(x, decay);
  } else {
    const int linear = o->method == LINEAR;
    const float overlap = o->overlap;
    for (int l = 0; l < BLOCK; ++l) decay[l] = iou[l] > overlap ? (linear ? 1.0f - iou[l] : 0.0f) : 1.0f;
  }
  const float floor_score = o->floor_score;
  const int32_t merge = o->merge ? MERGED : 0;
  int32_t busy = 0;
  for (int l = 0; l < BLOCK; ++l) {
    const float before = score[l], decayed = decay[l] * before, after = meets[l] ? decayed : before;
    const int32_t drops = meets[l] & (decayed < floor_score);
    const int32_t counts = meets[l] & !(fabsf(1.0f - decay[l]) < negligible);
    next[l] = after;
    state[l] = drops * DROPPED | (counts & merge);
    busy |= state[l];
    const float left = drops ? -INFINITY : after;
    best[l] = left > best[l] ? left : best[l];
  }
  all->busy[first / BLOCK] = busy;
}

/* The first row from row i on whose score is `best`, the highest score. */
INLINE int64_t find_score(const float *score, int64_t i, int64_t kept, float best) {
  if (!(score[i] < best)) return i; /* also if the score is a NaN */
  int64_t j = i;
  for (; j % BLOCK; ++j) {
    if (score[j] == best) return j;
  }
  for (; j < kept; j += BLOCK) {
    int32_t found = 0;
    for (int l = 0; l < BLOCK; ++l) found |= score[j + l] == best;
    if (found) break;
  }
  while (score[j] != best) ++j;
  return j;
}

static void write_row(float *row, const candidates *all, int64_t j, float score) {
  row[X1] = all->x1[j];
  row[Y1] = all->y1[j];
  row[X2] = all->x2[j];
  row[Y2] = all->y2[j];
  row[SCORE] = score;
}

/* Puts the dummy box into row j. Its x1 is infinite, so that it intersects no box. */
static void clear(candidates *all, int64_t j) {
  all->x1[j] = INFINITY;
  all->y1[j] = all->x2[j] = all->y2[j] = all->area[j] = 0;
  all->score[j] = all->next_score[j] = -INFINITY;
  all->state[j] = 0;
}

static void move(candidates *all, int64_t to, int64_t from) {
  float *arrays[] = {all->x1, all->y1, all->x2, all->y2, all->area, all->score, all->next_score, all->decay};
  for (size_t a = 0; a < sizeof arrays / sizeof *arrays; ++a) arrays[a][to] = arrays[a][from];
  all->state[to] = all->state[from];
}

/* Soft-NMS for one class. rows: (n, columns) x1, y1, x2, y2, score and, for merging, top-left and bottom-right corner
   score; modified in place. memory: space for ARRAYS arrays of n elements, with n rounded up to a multiple of BLOCK.
   Returns the number of kept rows, which come first. The rows after them are stale: they hold what the compaction left
   behind. Columns from 5 on stay in their row. */
VERSIONS static int64_t suppress(float *rows, int64_t n, int64_t columns, const options *o, float *memory) {
  const int64_t size = (n + BLOCK - 1) / BLOCK * BLOCK;
  candidates all = {memory,
                    memory + size,
                    memory + 2 * size,
                    memory + 3 * size,
                    memory + 4 * size,
                    memory + 5 * size,
                    memory + 6 * size,
                    memory + 7 * size,
                    (int32_t *)(memory + 8 * size),
                    (int32_t *)(memory + 9 * size)};
  float best = -INFINITY;
  for (int64_t j = 0; j < size; ++j) {
    clear(&all, j);
    all.decay[j] = 1.0f;
    if (j >= n) continue;
    const float *row = rows + j * columns;
    all.x1[j] = row[X1];
    all.y1[j] = row[Y1];
    all.x2[j] = row[X2];
    all.y2[j] = row[Y2];
    all.area[j] = (float)(((double)(row[X2] - row[X1]) + 1.0) * ((double)(row[Y2] - row[Y1]) + 1.0));
    all.score[j] = row[SCORE];
    if (row[SCORE] > best) best = row[SCORE];
  }
  const float largest = o->merge ? largest_product(rows, n, columns) : 0;
  int64_t kept = n;
  for (int64_t i = 0; i < kept; ++i) {
    /* Select the box with the highest score: swap it with the box in row i */
    float *row = rows + i * columns, box[SCORE];
    const int64_t top = find_score(all.score, i, kept, best);
    write_row(row, &all, top, all.score[top]);
    if (top != i) move(&all, top, i);
    clear(&all, i);
    memcpy(box, row, sizeof box);
    const double area = ((double)(box[X2] - box[X1]) + 1.0) * ((double)(box[Y2] - box[Y1]) + 1.0);

    corner_sum corners[2] = {{0, 0, 0}, {0, 0, 0}};
    float negligible = 0;
    if (o->merge) {
      add_corner(&corners[0], row[FIRST_CORNER_SCORE], box[X1], box[Y1], 1.0f);
      add_corner(&corners[1], row[FIRST_CORNER_SCORE + 1], box[X2], box[Y2], 1.0f);
      negligible = negligible_loss(corners, largest, o->exponent);
    }
    float bests[BLOCK];
    for (int l = 0; l < BLOCK; ++l) bests[l] = -INFINITY;
    for (int64_t j = (i + 1) / BLOCK * BLOCK; j < kept; j += BLOCK) {
      decay_block(&all, j, box, area, negligible, o, bests);
    }
    best = -INFINITY;
    for (int l = 0; l < BLOCK; ++l) best = bests[l] > best ? bests[l] : best;

    for (int64_t j = i + 1; j < kept; ++j) {
      if (!all.busy[j / BLOCK]) {
        j |= BLOCK - 1;
        continue;
      }
      while (all.state[j]) {
        if (all.state[j] & MERGED) {
          const float *corner_scores = rows + j * columns + FIRST_CORNER_SCORE;
          const float weight = powf(1.0f - all.decay[j], o->exponent);
          add_corner(&corners[0], corner_scores[0], all.x1[j], all.y1[j], weight);
          add_corner(&corners[1], corner_scores[1], all.x2[j], all.y2[j], weight);
        }
        if (!(all.state[j] & DROPPED)) break;
        /* The last box moves to row j and is processed next. Its own row becomes stale. */
        --kept;
        write_row(rows + kept * columns, &all, kept, j == kept ? all.next_score[kept] : all.score[kept]);
        if (j < kept) move(&all, j, kept);
        clear(&all, kept);
      }
    }
    float *swapped = all.score;
    all.score = all.next_score;
    all.next_score = swapped;
    for (int corner = 0; o->merge && corner < 2; ++corner) {
      if (!(corners[corner].weight > 0)) continue; /* all corner scores are 0: the corner stays */
      row[2 * corner] = corners[corner].x / corners[corner].weight;
      row[2 * corner + 1] = corners[corner].y / corners[corner].weight;
    }
  }
  /* The release also averages each stale row with itself alone, which rounds its coordinates. */
  for (int64_t i = kept; o->merge && i < n; ++i) {
    float *row = rows + i * columns;
    for (int corner = 0; corner < 2; ++corner) {
      corner_sum sum = {0, 0, 0};
      add_corner(&sum, row[FIRST_CORNER_SCORE + corner], row[2 * corner], row[2 * corner + 1], 1.0f);
      if (!(sum.weight > 0)) continue;
      row[2 * corner] = sum.x / sum.weight;
      row[2 * corner + 1] = sum.y / sum.weight;
    }
  }
  return kept;
}

/* Soft-NMS for all classes. rows: (n, columns), as for `suppress`; modified in place. labels: (n,), grouped by class.
   kept: (n,) output, whether each row is kept. Returns 0, or -1 if memory cannot be allocated. */
static int soft_nms(float *rows, const int64_t *labels, int64_t n, int64_t columns, int method, float sigma,
                    float overlap, float floor_score, int merge, float exponent, unsigned char *kept) {
  const options o = {method, sigma, overlap, floor_score, merge, exponent};
  int64_t largest = 0;
  for (int64_t begin = 0, i = 0; i < n; ++i) {
    if (labels[i] != labels[begin]) begin = i;
    if (i - begin >= largest) largest = i - begin + 1;
  }
  const size_t size = (size_t)((largest + BLOCK - 1) / BLOCK * BLOCK) * ARRAYS * sizeof(float);
  char *memory = malloc(size + ALIGNED);
  if (memory == NULL) return -1;
  float *aligned = (float *)(memory + (ALIGNED - (uintptr_t)memory % ALIGNED));
  for (int64_t begin = 0, end; begin < n; begin = end) {
    for (end = begin + 1; end < n && labels[end] == labels[begin];) ++end;
    const int64_t count = suppress(rows + begin * columns, end - begin, columns, &o, aligned);
    for (int64_t i = begin; i < end; ++i) kept[i] = i - begin < count;
  }
  free(memory);
  return 0;
}
