/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "block/internal.h"

#define POOL_THREADS_MAX 16
#define POOL_STACK (256u << 10)

struct pool {
	void (*work)(struct block *disk, struct block_request *request);
	struct block *disk;
	pthread_mutex_t lock; /* what follows */
	pthread_cond_t wake;
	struct block_request *head, **tail;
	unsigned waiting, idle; /* requests, threads */
	bool stop;
	unsigned count;
	pthread_t thread[POOL_THREADS_MAX];
};

static void *pool_main(void *arg)
{
	struct pool *pool = arg;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct block_request *request = pool->head;

		if (!request) {
			if (pool->stop)
				break;
			pool->idle++;
			pthread_cond_wait(&pool->wake, &pool->lock);
			pool->idle--;
			continue;
		}
		pool->head = request->next;
		if (!pool->head)
			pool->tail = &pool->head;
		pool->waiting--;
		pthread_mutex_unlock(&pool->lock);
		request->next = NULL;
		pool->work(pool->disk, request);
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* Signals are other threads' business. */
static int add_thread(struct pool *pool)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int err;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, POOL_STACK);
	err = pthread_create(&pool->thread[pool->count], &attr, pool_main, pool);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (!err)
		pool->count++;
	return err;
}

struct pool *pool_create(void (*work)(struct block *disk, struct block_request *request), struct block *disk)
{
	struct pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return NULL;
	pool->work = work;
	pool->disk = disk;
	pool->tail = &pool->head;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->wake, NULL);
	/* The first one now: with it, work goes on even if no other can be had. */
	if (add_thread(pool) != 0) {
		pool_destroy(pool);
		errno = EAGAIN;
		return NULL;
	}
	return pool;
}

void pool_destroy(struct pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->stop = true;
	pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->count; i++)
		pthread_join(pool->thread[i], NULL);
	pthread_cond_destroy(&pool->wake);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

void pool_push(struct pool *pool, struct block_request *request)
{
	pthread_mutex_lock(&pool->lock);
	request->next = NULL;
	*pool->tail = request;
	pool->tail = &request->next;
	pool->waiting++;
	if (pool->waiting > pool->idle && pool->count < POOL_THREADS_MAX)
		add_thread(pool);
	pthread_cond_signal(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
}
