/* The rate of a bare loop of fused multiply-adds, in GFLOP/s: what no convolution can exceed.

       cc -O3 -march=native -ffp-contract=fast -pthread -DELEMENT=float peak.c -o peak
       ./peak 2                           (threads)

   The vectors are GCC's and Clang's own, as wide as the machine has them. */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif

/* Chains enough to hide the latency (4 cycles, up to 4 pipes), few enough for the registers. */
#if defined(__AVX512F__) || defined(__aarch64__)
#define CHAINS 24
#else
#define CHAINS 12
#endif

#define STEPS 500000
#define TRIALS 5
#define MOST_THREADS 1024

typedef ELEMENT vector __attribute__((vector_size(BYTES)));

/* Read and written through volatile, so that neither loop nor result can be worked out before. */
static volatile ELEMENT factor = 0.5, addend = 1.0;
static volatile ELEMENT sink;

static void *work(void *unused)
{
    vector sums[CHAINS], f, a, total;
    for (int lane = 0; lane < (int)(BYTES / sizeof(ELEMENT)); lane++) {
        f[lane] = factor;
        a[lane] = addend;
    }
    for (int i = 0; i < CHAINS; i++)
        sums[i] = a * (ELEMENT)i;
    for (long step = 0; step < STEPS; step++) {
#pragma GCC unroll 24
        for (int i = 0; i < CHAINS; i++)
            sums[i] = sums[i] * f + a;
    }
    total = sums[0];
    for (int i = 1; i < CHAINS; i++)
        total += sums[i];
    sink = total[0];
    return unused;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

int main(int count, char **arguments)
{
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    pthread_t thread[MOST_THREADS];
    double best = 1e9;
    if (threads < 1 || threads > MOST_THREADS)
        return 2;
    for (int trial = 0; trial < TRIALS; trial++) {
        double start = seconds();
        for (int i = 0; i < threads; i++)
            if (pthread_create(&thread[i], NULL, work, NULL))
                return 1;
        for (int i = 0; i < threads; i++)
            pthread_join(thread[i], NULL);
        double elapsed = seconds() - start;
        if (elapsed < best)
            best = elapsed;
    }
    double flop = 2.0 * threads * STEPS * CHAINS * (BYTES / sizeof(ELEMENT));
    printf("%.1f\n", flop / best / 1e9);
    return 0;
}
