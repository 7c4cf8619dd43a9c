/* The enhanced candles as one pass of a bare loop, to see how far the arrays are from it: every column but the four
   peaks, water_state and mouth_confidence. Texts are bytes here, and nothing checks anything. Each column is `n` long:
   `lines` holds median, ao, ac, 9 lines, 2 gator columns and mfi, `flags` holds the rest. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LINES = 15, FLAGS = 43 };
static const int PERIOD[9] = {13, 8, 5, 89, 55, 34, 377, 233, 144};
static const int SHIFT[9] = {8, 5, 3, 55, 34, 21, 233, 144, 89};
static const int DEGREE[9] = {2, 3, 5, 8, 13, 21, 34, 55, 89};

static int stands_out(const double *x, long i, long n, int k, int sign) {
    if (i < k || i >= n - k) return 0;
    for (int j = 1; j <= k; j++)
        if (sign * x[i - j] >= sign * x[i] || sign * x[i + j] >= sign * x[i]) return 0;
    return 1;
}

void enhanced(long n, const double *high, const double *low, const double *close, const double *volume, double *lines,
              signed char *flags) {
    double *median = lines, *ao = lines + n, *ac = lines + 2 * n, *line = lines + 3 * n;
    double *upper = lines + 12 * n, *lower = lines + 13 * n, *mfi = lines + 14 * n;
    signed char *ao_green = flags + 36 * n, *ac_green = flags + 37 * n, *zone = flags + 38 * n;
    double sum5 = 0, sum34 = 0, sum_ao = 0, average[9] = {0};
    for (long i = 0; i < n; i++) {
        double x = median[i] = (high[i] + low[i]) / 2;
        sum5 += x - (i >= 5 ? median[i - 5] : 0);
        sum34 += x - (i >= 34 ? median[i - 34] : 0);
        ao[i] = i >= 33 ? sum5 / 5 - sum34 / 34 : NAN;
        if (i >= 33) sum_ao += ao[i] - (i >= 38 ? ao[i - 5] : 0);
        ac[i] = i >= 37 ? ao[i] - sum_ao / 5 : NAN;
        for (int l = 0; l < 9; l++) {
            int p = PERIOD[l];
            if (i < p) average[l] += x / p;
            else if (i > p) average[l] = (average[l] * (p - 1) + x) / p;
            if (i < SHIFT[l] + p) line[l * n + i] = NAN;
            if (i >= p && i + SHIFT[l] < n) line[l * n + i + SHIFT[l]] = average[l];
        }
        double jaw = line[i], teeth = line[n + i], lips = line[2 * n + i];
        upper[i] = jaw - teeth;
        lower[i] = lips - teeth;
        mfi[i] = volume[i] > 0 ? (high[i] - low[i]) / volume[i] * 1e5 : NAN;
        for (int d = 0; d < 9; d++) {
            flags[2 * d * n + i] = stands_out(high, i, n, DEGREE[d], 1);
            flags[(2 * d + 1) * n + i] = stands_out(low, i, n, DEGREE[d], -1);
        }
        if (i < 3) continue;
        int buy = lips > high[i] && low[i] < low[i - 1] && close[i] > x;
        int sell = lips < low[i] && high[i] > high[i - 1] && close[i] < x;
        flags[18 * n + i] = buy, flags[19 * n + i] = sell, flags[20 * n + i] = buy ? 1 : -sell;
        flags[21 * n + i] = ao[i] > 0, flags[22 * n + i] = ao[i] < 0;
        int up = ao[i - 1] < 0 && ao[i] > 0, down = ao[i - 1] > 0 && ao[i] < 0;
        flags[23 * n + i] = up - down, flags[24 * n + i] = up, flags[25 * n + i] = down;
        ao_green[i] = ao[i] > ao[i - 1], ac_green[i] = ac[i] > ac[i - 1];
        int green = ao_green[i] && ac_green[i] && ao_green[i - 1] && ac_green[i - 1];
        int red = !ao_green[i] && !ac_green[i] && !ao_green[i - 1] && !ac_green[i - 1];
        zone[i] = green - red, flags[26 * n + i] = green, flags[27 * n + i] = red;
        flags[28 * n + i] = ac_green[i] && ac_green[i - 1] && !ao_green[i] && !ao_green[i - 1] &&
                            !(ac[i] > 0 && !ac_green[i - 2]);
        flags[29 * n + i] = !ac_green[i] && !ac_green[i - 1] && ao_green[i] && ao_green[i - 1] &&
                            !(ac[i] < 0 && ac_green[i - 2]);
        flags[30 * n + i] = ao[i] > 0 && ao_green[i] && !ao_green[i - 1] && !ao_green[i - 2];
        flags[31 * n + i] = ao[i] < 0 && !ao_green[i] && ao_green[i - 1] && ao_green[i - 2];
        int more = volume[i] > volume[i - 1], less = volume[i] < volume[i - 1];
        int easier = mfi[i] > mfi[i - 1], harder = mfi[i] < mfi[i - 1];
        flags[32 * n + i] = more && harder, flags[33 * n + i] = less && easier;
        flags[34 * n + i] = less && harder, flags[35 * n + i] = more && easier;
        double jaw1 = line[i - 1], teeth1 = line[n + i - 1], lips1 = line[2 * n + i - 1];
        flags[39 * n + i] = (lips > teeth && teeth > jaw && jaw > jaw1 && teeth > teeth1 && lips > lips1) -
                            (lips < teeth && teeth < jaw && jaw < jaw1 && teeth < teeth1 && lips < lips1);
        double q = (fabs(jaw - teeth) + fabs(teeth - lips)) / 2, q1 = (fabs(jaw1 - teeth1) + fabs(teeth1 - lips1)) / 2;
        flags[40 * n + i] = q > q1 ? (q1 < 1e-8 ? 1 : 2) : q < q1 ? (q < 1e-8 ? 0 : 3) : (q > 1e-8 ? 2 : 0);
        flags[41 * n + i] = (low[i] > fmax(fmax(jaw, teeth), lips)) - (high[i] < fmin(fmin(jaw, teeth), lips));
        flags[42 * n + i] = 1 * flags[32 * n + i] + 2 * flags[33 * n + i] + 3 * flags[34 * n + i] + 4 * flags[35 * n + i];
    }
}
