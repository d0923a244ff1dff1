/* Soft-NMS (Bodla et al., ICCV 2017) and CornerNet's merging variant, in place, as CornerNet's release computes them.

   The arithmetic below fixes the release's rounding: float32 throughout, except where a 1.0 is added, which widens that
   expression to double before it is stored. Built with -ffp-contract=off, so that no multiply-add is fused. */
#include <math.h>
#include <stdint.h>

enum { HARD, LINEAR, GAUSSIAN };
enum { X1, Y1, X2, Y2, SCORE, FIRST_CORNER_SCORE };

/* Weighted sum of one corner's coordinates over the boxes a kept box suppresses. */
typedef struct {
  float weight, x, y;
} corner_sum;

static void add_corner(corner_sum *sum, const float *row, int corner, float weight) {
  const float score = row[FIRST_CORNER_SCORE + corner];
  sum->weight += weight * score;
  sum->x += weight * (score * row[2 * corner]);
  sum->y += weight * (score * row[2 * corner + 1]);
}

static float smaller(float a, float b) { return a <= b ? a : b; }
static float larger(float a, float b) { return a >= b ? a : b; }

/* rows: (n, columns) x1, y1, x2, y2, score, and for merging top-left and bottom-right corner score. Returns how many
   leading rows are kept; rows after them are what the compaction left behind. merge: replace each kept box by the
   average of itself and those it suppresses. */
static int64_t soft_nms(float *rows, int64_t n, int64_t columns, int method, float sigma, float overlap,
                        float floor_score, int merge, float exponent) {
  int64_t kept = n;
  for (int64_t i = 0; i < n; ++i) {
    float *best = rows + i * columns;
    /* the highest score left comes to row i; only columns 0-4 move, the corner scores stay where they are */
    int64_t top = i;
    for (int64_t j = i + 1; j < kept; ++j) {
      if (rows[j * columns + SCORE] > rows[top * columns + SCORE]) top = j;
    }
    for (int c = 0; c <= SCORE; ++c) {
      const float moved = best[c];
      best[c] = rows[top * columns + c];
      rows[top * columns + c] = moved;
    }

    corner_sum corners[2] = {{0, 0, 0}, {0, 0, 0}};
    if (merge) {
      add_corner(&corners[0], best, 0, 1.0f);
      add_corner(&corners[1], best, 1, 1.0f);
    }
    for (int64_t j = i + 1; j < kept; ++j) {
      float *row = rows + j * columns;
      const float width = (float)((double)(smaller(best[X2], row[X2]) - larger(best[X1], row[X1])) + 1.0);
      if (!(width > 0)) continue;
      const float height = (float)((double)(smaller(best[Y2], row[Y2]) - larger(best[Y1], row[Y1])) + 1.0);
      if (!(height > 0)) continue;
      const float area = (float)(((double)(row[X2] - row[X1]) + 1.0) * ((double)(row[Y2] - row[Y1]) + 1.0));
      const float intersection = width * height;
      const double best_area = ((double)(best[X2] - best[X1]) + 1.0) * ((double)(best[Y2] - best[Y1]) + 1.0);
      const float all = (float)(best_area + area - intersection);
      const float iou = intersection / all;

      float decay = 1.0f;
      if (method == GAUSSIAN) {
        decay = (float)exp((double)(-(iou * iou) / sigma));
      } else if (iou > overlap) {
        decay = method == LINEAR ? 1.0f - iou : 0.0f;
      }
      if (merge) {
        const float weight = powf(1.0f - decay, exponent);
        add_corner(&corners[0], row, 0, weight);
        add_corner(&corners[1], row, 1, weight);
      }
      row[SCORE] = decay * row[SCORE];
      if (row[SCORE] < floor_score) {
        --kept;
        for (int c = 0; c <= SCORE; ++c) row[c] = rows[kept * columns + c];
        --j; /* the box that came here is still to be looked at */
      }
    }
    /* Rows no longer kept pass here too, as averages of themselves alone: the release does so, and it rounds them. */
    for (int corner = 0; merge && corner < 2; ++corner) {
      if (!(corners[corner].weight > 0)) continue; /* corner scores of 0: nothing to weigh with */
      best[2 * corner] = corners[corner].x / corners[corner].weight;
      best[2 * corner + 1] = corners[corner].y / corners[corner].weight;
    }
  }
  return kept;
}
