/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One thread draws and reads keys: all of curses is its own. It sleeps until the screen changes or a key comes, and
 * draws at most every DRAW_MS.
 */
#define NCURSES_WIDECHAR 1
#include "machine/display.h"

#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <locale.h>
#include <ncurses.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"
#include "device/models.h"
#include "device/vga.h"
#include "machine/message.h"
#include "machine/terminal.h"

#define DRAW_MS 40
#define KEY_RETRY_MS 10
#define DRAIN_S 1 /* for the terminal to take what is left */
#define INTERRUPT_MS 10
#define EVENTS_MAX 512 /* key events that the guest has not taken */
#define PREFIX 1       /* Ctrl-A */

#define KEY_CODE_SHIFT 0x2a
#define KEY_CODE_CONTROL 0x1d
#define KEY_CODE_ALT 0x38
#define KEY_CODE_DELETE 0x153

struct key_event {
	uint16_t code;
	bool down;
};

struct display {
	void (*quit)(void *ctx);
	void *ctx;
	int event_fd;
	pthread_t thread;
	_Atomic bool stop;
	const char *_Atomic note;      /* the last line's, NULL: none */
	pthread_mutex_t lock;          /* the two below */
	struct device *vga, *keyboard; /* NULL: detached */

	/* The thread's own. */
	SCREEN *terminal;
	FILE *out; /* the terminal, in a descriptor of its own */
	bool unicode, color, prefix, input;
	struct key_event events[EVENTS_MAX];
	unsigned event_count;
	struct vga_screen screen;
	int64_t drawn_ms;
	bool changed;
};

static void wake(void *ctx)
{
	struct display *d = ctx;
	uint64_t one = 1;
	ssize_t n = write(d->event_fd, &one, sizeof(one));

	(void)n; /* a full counter wakes as well */
}

/* ---- drawing ---- */

static attr_t cell_attributes(const struct display *d, uint8_t a)
{
	attr_t attr = a & 8 ? A_BOLD : A_NORMAL;

	if (d->screen.blink && a & 0x80)
		attr |= A_BLINK;
	if (!d->color && (a & 0x77) == 0x70)
		attr |= A_REVERSE;
	return attr;
}

static void draw_cell(const struct display *d, int y, int x, uint16_t cell)
{
	uint8_t c = (uint8_t)cell, a = (uint8_t)(cell >> 8);
	wchar_t text[2] = { d->unicode ? (wchar_t)display_unicode[c] : (wchar_t)display_ascii(c), 0 };
	short pair = d->color ? (short)(1 + (a & 7) + (a >> 4 & 7) * 8) : 0;
	cchar_t cc;

	setcchar(&cc, text, cell_attributes(d, a), pair, NULL);
	mvadd_wch(y, x, &cc);
}

static void draw_text(const struct display *d)
{
	const struct vga_screen *s = &d->screen;
	/* A terminal that is too low shows the part with the cursor. */
	unsigned lines = (unsigned)LINES, columns = (unsigned)COLS;
	unsigned top = s->cursor && s->cursor_y >= lines ? s->cursor_y - lines + 1 : 0;

	for (unsigned y = 0; y < lines && top + y < s->height; y++)
		for (unsigned x = 0; x < columns && x < s->width; x++)
			draw_cell(d, (int)y, (int)x, s->cell[(top + y) * s->width + x]);
	curs_set(s->cursor && s->cursor_x < columns);
	if (s->cursor)
		move((int)(s->cursor_y - top), (int)s->cursor_x);
}

/* In the way of what the guest has there. */
static void draw_note(const char *note)
{
	attron(A_REVERSE);
	mvprintw(LINES - 1, 0, "[%.*s]", COLS > 2 ? COLS - 3 : 0, note);
	attroff(A_REVERSE);
	curs_set(0);
}

static void draw(struct display *d)
{
	const char *note = atomic_load(&d->note);

	pthread_mutex_lock(&d->lock);
	if (d->vga)
		vga_get_screen(d->vga, &d->screen);
	pthread_mutex_unlock(&d->lock);
	erase();
	if (d->screen.text) {
		draw_text(d);
	} else {
		curs_set(0);
		mvprintw(0, 0, "[%u x %u pixels, which a terminal cannot show; Ctrl-A x ends the machine]",
			 d->screen.width, d->screen.height);
	}
	if (note)
		draw_note(note);
	refresh();
}

/* ---- keys ---- */

static void queue_key(struct display *d, uint16_t code, bool down)
{
	if (d->event_count < EVENTS_MAX)
		d->events[d->event_count++] = (struct key_event){ code, down };
}

static void queue_stroke(struct display *d, const struct display_key *k)
{
	const struct {
		bool on;
		uint16_t code;
	} modifiers[] = { { k->shift, KEY_CODE_SHIFT }, { k->control, KEY_CODE_CONTROL }, { k->alt, KEY_CODE_ALT } };

	/* All of it or nothing: no modifier may stay down. */
	if (!k->code || d->event_count + 8 > EVENTS_MAX)
		return;
	for (size_t i = 0; i < ARRAY_SIZE(modifiers); i++)
		if (modifiers[i].on)
			queue_key(d, modifiers[i].code, true);
	queue_key(d, k->code, true);
	queue_key(d, k->code, false);
	for (size_t i = ARRAY_SIZE(modifiers); i-- > 0;)
		if (modifiers[i].on)
			queue_key(d, modifiers[i].code, false);
}

/* After Ctrl-A. */
static void command_key(struct display *d, unsigned key)
{
	const struct display_key delete = { .code = KEY_CODE_DELETE, .control = true, .alt = true };
	struct display_key prefix = display_key_of(PREFIX, false);

	switch (key) {
	case 'x': d->quit(d->ctx); break;
	case 'd': queue_stroke(d, &delete); break;
	case 'a':
	case PREFIX: queue_stroke(d, &prefix); break;
	default: break;
	}
}

static void take_key(struct display *d, wint_t key, bool function, bool alt)
{
	struct display_key k;

	if (function && key == KEY_RESIZE) {
		d->changed = true;
		clearok(curscr, TRUE);
		return;
	}
	if (d->prefix || (!function && key == PREFIX && !alt)) {
		if (d->prefix && !function)
			command_key(d, key);
		d->prefix = !d->prefix;
		return;
	}
	k = display_key_of(key, function);
	k.alt = alt;
	queue_stroke(d, &k);
}

static void read_keys(struct display *d)
{
	wint_t key, next;
	int kind;

	while ((kind = get_wch(&key)) != ERR) {
		/* Terminals send Alt and a key as ESC and that key at once. */
		if (kind == OK && key == 27 && (kind = get_wch(&next)) != ERR) {
			take_key(d, next, kind == KEY_CODE_YES, true);
			continue;
		}
		take_key(d, key, kind == KEY_CODE_YES, false);
	}
}

/* What the guest's keyboard takes now. */
static void send_keys(struct display *d)
{
	unsigned sent = 0;

	pthread_mutex_lock(&d->lock);
	if (!d->keyboard)
		sent = d->event_count;
	while (sent < d->event_count && i8042_key(d->keyboard, d->events[sent].code, d->events[sent].down))
		sent++;
	pthread_mutex_unlock(&d->lock);
	d->event_count -= sent;
	memmove(d->events, d->events + sent, d->event_count * sizeof(d->events[0]));
}

/* ---- the thread ---- */

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int timeout_ms(const struct display *d)
{
	int64_t left = d->drawn_ms + DRAW_MS - now_ms();

	if (d->changed && (left < KEY_RETRY_MS || !d->event_count))
		return left > 0 ? (int)left : 0;
	return d->event_count ? KEY_RETRY_MS : -1;
}

static void *display_thread(void *arg)
{
	struct display *d = arg;
	sigset_t set;

	sigemptyset(&set); /* curses wants to know the terminal's size */
	sigaddset(&set, SIGWINCH);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	set_term(d->terminal);
	while (!atomic_load(&d->stop)) {
		struct pollfd fds[2] = { { .fd = d->event_fd, .events = POLLIN },
					 { .fd = d->input ? STDIN_FILENO : -1, .events = POLLIN } };
		uint64_t count;

		if (poll(fds, 2, timeout_ms(d)) < 0)
			fds[0].revents = 0,
			fds[1].revents = POLLIN; /* a signal: the size, which curses gives as a key */
		if (fds[0].revents && read(d->event_fd, &count, sizeof(count)) > 0)
			d->changed = true;
		if (fds[1].revents & POLLIN)
			read_keys(d);
		else if (fds[1].revents)
			d->input = false; /* the terminal went away; a signal says so as well */
		if (d->event_count)
			send_keys(d);
		if (d->changed && now_ms() - d->drawn_ms >= DRAW_MS) {
			d->changed = false;
			draw(d);
			d->drawn_ms = now_ms();
		}
	}
	return NULL;
}

/* ---- life ---- */

static void setup_colors(struct display *d)
{
	/* VGA's bit 0 is blue, the terminal's is red. */
	static const short colors[8] = { COLOR_BLACK, COLOR_BLUE,    COLOR_GREEN,  COLOR_CYAN,
					 COLOR_RED,   COLOR_MAGENTA, COLOR_YELLOW, COLOR_WHITE };

	d->color = has_colors() && start_color() == OK && COLOR_PAIRS > 64;
	for (short i = 0; d->color && i < 64; i++)
		init_pair((short)(1 + i), colors[i & 7], colors[i >> 3]);
}

static int setup_terminal(struct display *d)
{
	const char *type = getenv("TERM");
	int fd;

	if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO)) {
		msg_error("--display curses: standard input and output must be a terminal");
		return -ENOTTY;
	}
	setlocale(LC_CTYPE, "");
	d->unicode = !strcmp(nl_langinfo(CODESET), "UTF-8");
	terminal_raw(); /* so that it is restored however the program ends */
	fd = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
	d->out = fd < 0 ? NULL : fdopen(fd, "w");
	d->terminal = d->out ? newterm(NULL, d->out, stdin) : NULL;
	if (!d->terminal) {
		terminal_restore();
		if (d->out)
			fclose(d->out);
		msg_error("--display curses: the terminal (TERM=%s) cannot show it", type ? type : "");
		return -ENOTTY;
	}
	raw();
	noecho();
	nonl();
	keypad(stdscr, TRUE);
	nodelay(stdscr, TRUE);
	set_escdelay(25);
	setup_colors(d);
	return 0;
}

int display_open(void (*quit)(void *ctx), void *ctx, struct display **out)
{
	struct display *d = calloc(1, sizeof(*d));
	sigset_t winch;
	int err;

	*out = NULL;
	if (!d)
		return -ENOMEM;
	d->quit = quit;
	d->ctx = ctx;
	d->input = true;
	pthread_mutex_init(&d->lock, NULL);
	d->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = d->event_fd < 0 ? -errno : 0;
	if (!err)
		err = setup_terminal(d);
	if (err)
		goto fail;
	msg_hold(true);
	sigemptyset(&winch);
	sigaddset(&winch, SIGWINCH);
	pthread_sigmask(SIG_BLOCK, &winch, NULL); /* for the display's thread, no other */
	err = -pthread_create(&d->thread, NULL, display_thread, d);
	if (!err) {
		*out = d;
		return 0;
	}
	endwin();
	delscreen(d->terminal);
	fclose(d->out);
	terminal_restore();
	msg_hold(false);
	msg_error("--display curses: %s", strerror(-err));
fail:
	if (d->event_fd >= 0)
		close(d->event_fd);
	pthread_mutex_destroy(&d->lock);
	free(d);
	return err;
}

static void interrupted(int signal)
{
	(void)signal; /* a write() comes back */
}

/*
 * The thread may be in a write() to a terminal that nobody reads, and curses would try that again for ever: then the
 * rest goes to nowhere.
 */
static void join_thread(struct display *d)
{
	struct sigaction action = { .sa_handler = interrupted }, old;
	struct timespec end;
	int nowhere;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += DRAIN_S;
	if (pthread_timedjoin_np(d->thread, NULL, &end) == 0)
		return;
	nowhere = open("/dev/null", O_WRONLY | O_CLOEXEC);
	sigaction(SIGUSR2, &action, &old);
	if (nowhere >= 0)
		dup2(nowhere, fileno(d->out));
	do { /* the signal may come just before a write(), again and again */
		pthread_kill(d->thread, SIGUSR2);
		clock_gettime(CLOCK_REALTIME, &end);
		end.tv_nsec += INTERRUPT_MS * 1000000;
		if (end.tv_nsec >= 1000000000) {
			end.tv_nsec -= 1000000000;
			end.tv_sec++;
		}
	} while (pthread_timedjoin_np(d->thread, NULL, &end) != 0);
	sigaction(SIGUSR2, &old, NULL);
	if (nowhere >= 0)
		close(nowhere);
	tcflush(STDOUT_FILENO, TCOFLUSH); /* so that there is room for what is still to be said */
}

void display_close(struct display *d)
{
	if (!d)
		return;
	atomic_store(&d->stop, true);
	wake(d);
	join_thread(d);
	endwin();
	delscreen(d->terminal);
	fclose(d->out);
	terminal_restore();
	msg_hold(false);
	close(d->event_fd);
	pthread_mutex_destroy(&d->lock);
	free(d);
}

void display_note(struct display *d, const char *note)
{
	if (d && atomic_exchange(&d->note, note) != note)
		wake(d);
}

void display_attach(struct display *d, struct device *vga, struct device *keyboard)
{
	pthread_mutex_lock(&d->lock);
	d->vga = vga;
	d->keyboard = keyboard;
	pthread_mutex_unlock(&d->lock);
	vga_watch(vga, wake, d);
}

void display_detach(struct display *d)
{
	struct device *vga;

	if (!d)
		return;
	pthread_mutex_lock(&d->lock);
	vga = d->vga;
	d->vga = d->keyboard = NULL;
	pthread_mutex_unlock(&d->lock);
	if (vga)
		vga_watch(vga, NULL, NULL);
}
