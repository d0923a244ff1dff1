/* The published soft-NMS of one class and its merging variant, translated to plain C: the baseline of
   benchmarks/detection.py. rows: (n, columns) x1, y1, x2, y2, score and, with merging, two corner scores; modified in
   place. Returns the number of kept rows. */
#include <math.h>

static float least(float a, float b) { return a <= b ? a : b; }
static float most(float a, float b) { return a >= b ? a : b; }

int published_soft_nms(float *rows, int n, int columns, float sigma, float floor_score, int merge, float exponent) {
  for (int i = 0; i < n; i++) {
    int top = i;
    for (int j = i + 1; j < n; j++)
      if (rows[j * columns + 4] > rows[top * columns + 4]) top = j;
    for (int c = 0; c < 5; c++) {
      float moved = rows[i * columns + c];
      rows[i * columns + c] = rows[top * columns + c];
      rows[top * columns + c] = moved;
    }
    float *a = rows + i * columns;
    float sums[6] = {0};
    if (merge) {
      for (int corner = 0; corner < 2; corner++) {
        sums[3 * corner] = a[5 + corner];
        sums[3 * corner + 1] = a[5 + corner] * a[2 * corner];
        sums[3 * corner + 2] = a[5 + corner] * a[2 * corner + 1];
      }
    }
    int j = i + 1;
    while (j < n) {
      float *b = rows + j * columns;
      float width = least(a[2], b[2]) - most(a[0], b[0]) + 1.0;
      if (width > 0) {
        float height = least(a[3], b[3]) - most(a[1], b[1]) + 1.0;
        if (height > 0) {
          float area = (b[2] - b[0] + 1.0) * (b[3] - b[1] + 1.0);
          float all = (a[2] - a[0] + 1.0) * (a[3] - a[1] + 1.0) + area - width * height;
          float overlap = width * height / all;
          float decay = exp(-(overlap * overlap) / sigma);
          if (merge) {
            float weight = powf(1 - decay, exponent);
            for (int corner = 0; corner < 2; corner++) {
              sums[3 * corner] += weight * b[5 + corner];
              sums[3 * corner + 1] += weight * b[5 + corner] * b[2 * corner];
              sums[3 * corner + 2] += weight * b[5 + corner] * b[2 * corner + 1];
            }
          }
          b[4] *= decay;
          if (b[4] < floor_score) {
            for (int c = 0; c < 5; c++) b[c] = rows[(n - 1) * columns + c];
            n--;
            continue;
          }
        }
      }
      j++;
    }
    if (merge) {
      for (int corner = 0; corner < 2; corner++) {
        a[2 * corner] = sums[3 * corner + 1] / sums[3 * corner];
        a[2 * corner + 1] = sums[3 * corner + 2] / sums[3 * corner];
      }
    }
  }
  return n;
}
