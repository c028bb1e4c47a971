/* GNU OpenMP's parallel regions in plain threads, for `make sanitize`.

   ThreadSanitizer does not see how libgomp makes its threads wait for each other, and
   takes every loop for a race. It sees those of pthread. There is what a loop with a
   static schedule calls. To be compiled with -fvisibility=hidden: torch has libgomp. */

#include <pthread.h>

#define MOST 64

static __thread int number, count = 1;
static __thread pthread_barrier_t *barrier;

struct region {
    void (*body)(void *);
    void *data;
    int number, count;
    pthread_barrier_t *barrier;
};

static void *run(void *argument)
{
    struct region *region = argument;
    number = region->number;
    count = region->count;
    barrier = region->barrier;
    region->body(region->data);
    return 0;
}

void GOMP_parallel(void (*body)(void *), void *data, unsigned n, unsigned flags)
{
    struct region regions[MOST];
    pthread_t threads[MOST];
    pthread_barrier_t shared;
    int i, all = n > MOST ? MOST : n ? n : 2;

    pthread_barrier_init(&shared, 0, all);
    for (i = 0; i < all; i++) {
        regions[i] = (struct region){body, data, i, all, &shared};
        if (i)
            pthread_create(&threads[i], 0, run, &regions[i]);
    }
    run(&regions[0]);
    for (i = 1; i < all; i++)
        pthread_join(threads[i], 0);
    pthread_barrier_destroy(&shared);
    number = 0;
    count = 1;
    barrier = 0;
}

void GOMP_barrier(void)
{
    if (barrier)
        pthread_barrier_wait(barrier);
}

int omp_get_thread_num(void) { return number; }
int omp_get_num_threads(void) { return count; }
