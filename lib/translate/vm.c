/* SPDX-License-Identifier: Apache-2.0 */
/* What the translating vCPUs of one VM tell each other about writes to code. */
#include <errno.h>
#include <stdlib.h>

#include "interp/cache.h"
#include "translate/translate.h"
#include "x86/fpu.h"

/* A spin lock: held for a few instructions, by threads that may have vector state live (no libc). */
static _Atomic bool lock_word;
static struct translate_vm *registry;

static void lock(void)
{
	while (atomic_exchange_explicit(&lock_word, true, memory_order_acquire))
		__builtin_ia32_pause();
}

static void unlock(void)
{
	atomic_store_explicit(&lock_word, false, memory_order_release);
}

/* Thread: the creator's. */
int translate_vm_join(struct translate *t)
{
	struct translate_vm *fresh = calloc(1, sizeof(*fresh)), *vm;

	if (!fresh)
		return -ENOMEM;
	lock();
	for (vm = registry; vm && vm->mem != t->cpu->mem; vm = vm->next)
		;
	if (!vm) {
		vm = fresh;
		fresh = NULL;
		vm->mem = t->cpu->mem;
		vm->next = registry;
		registry = vm;
	}
	t->vm = vm;
	t->next = vm->vcpus;
	vm->vcpus = t;
	t->cpu->tlb->code_shared = vm->pages;
	unlock();
	free(fresh);
	return 0;
}

/* Thread: the creator's. */
void translate_vm_leave(struct translate *t)
{
	struct translate_vm *vm = t->vm, **v = &registry;

	if (!vm)
		return;
	lock();
	for (struct translate **p = &vm->vcpus; *p; p = &(*p)->next) {
		if (*p == t) {
			*p = t->next;
			break;
		}
	}
	t->cpu->tlb->code_shared = NULL;
	if (!vm->vcpus) {
		while (*v != vm)
			v = &(*v)->next;
		*v = vm->next;
	} else {
		vm = NULL;
	}
	unlock();
	free(vm);
}

void translate_protect(struct translate *t, uint64_t gpa)
{
	unsigned hash = x86_tlb_code_hash(GPA(gpa));
	struct translate_vm *vm = t->vm;
	uint64_t bit = BIT64(hash % 64);
	bool alone, done;

	/* Held from now on, so that no writer gives the page up before the block is there. */
	if (t->owned[hash]++)
		return;
	/* With the bit set nobody is given a write tag any more, who joins now included. */
	lock();
	atomic_fetch_or(&vm->pages[hash / 64], bit);
	done = vm->withheld[hash / 64] & bit;
	alone = vm->vcpus == t && !t->next;
	unlock();
	if (done)
		return;
	if (alone) {
		x86_tlb_withhold_writes(t->cpu, GPA(gpa));
		lock();
		vm->withheld[hash / 64] |= bit;
		unlock();
		return;
	}
	x86_fpu_put(t->cpu);
	t->cpu->ops->exclusive_begin(t->cpu);
	lock();
	/* A writer may have given the page up before it could see that it is held. */
	atomic_fetch_or(&vm->pages[hash / 64], bit);
	for (struct translate *o = vm->vcpus; o; o = o->next)
		x86_tlb_withhold_writes(o->cpu, GPA(gpa));
	vm->withheld[hash / 64] |= bit;
	unlock();
	t->cpu->ops->exclusive_end(t->cpu);
}

void translate_protect_done(struct translate *t, uint64_t gpa)
{
	t->owned[x86_tlb_code_hash(GPA(gpa))]--;
}

static void mail_post(struct translate *to, uint64_t gpa, unsigned len)
{
	unsigned n = to->mail_count;

	if (n < TRANSLATE_MAILBOX) {
		to->mail[n].gpa = gpa;
		to->mail[n].len = len;
	}
	if (n <= TRANSLATE_MAILBOX)
		to->mail_count = n + 1; /* one more than fit: all is stale */
	x86_cpu_attention(to->cpu, X86_ATT_IRQ);
}

void translate_mail_read(struct translate *t)
{
	if (likely(!t->mail_count))
		return;
	lock();
	if (t->mail_count > TRANSLATE_MAILBOX)
		translate_wipe(t);
	else
		for (unsigned n = 0; n < t->mail_count; n++)
			translate_drop(t, t->mail[n].gpa, t->mail[n].len);
	t->mail_count = 0;
	unlock();
}

void translate_written(struct x86_cpu *cpu, gpa_t gpa, unsigned len)
{
	struct translate *t = translate_of(cpu);
	unsigned hash = x86_tlb_code_hash(gpa);
	uint64_t bit = BIT64(hash % 64);
	bool owned;

	interp_cache_written(cpu, gpa, len);
	if (!(t->vm->pages[hash / 64] & bit))
		return;
	if (translate_drop(t, gpa.v, len))
		t->interp.abort_block = true;
	lock();
	owned = t->owned[hash] != 0;
	for (struct translate *o = t->vm->vcpus; o; o = o->next) {
		if (o != t && o->owned[hash]) {
			mail_post(o, gpa.v, len);
			owned = true;
		}
	}
	/* Nobody has code there any more. Who is about to have takes the lock first (translate_protect). */
	if (!owned) {
		atomic_fetch_and(&t->vm->pages[hash / 64], ~bit);
		t->vm->withheld[hash / 64] &= ~bit;
	}
	unlock();
}
