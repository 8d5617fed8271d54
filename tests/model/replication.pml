// SPDX-License-Identifier: Apache-2.0
// The replication protocol (design.md, R1-R5, R7, R8, R10, R11, sessions, boot ids) for one block, checked by spin.
//
// Two replica servers, WRITERS epochs one after the other (an older one goes on believing that it is the writer), a
// record that changes by compare-and-swap, clients that write VALUES different values, SESSIONS links of a writer to a
// replica. Any step may be delayed for ever: that is how messages, answers and proposals get lost or late. What breaks
// is bounded: DROPS links cut, STALLS requests that sleep inside a server, PROCESSES servers killed, KERNELS hosts
// restarted (they keep or lose what was not flushed); a writer may die at any time. Every reachable state is visited.
//
// One process, one big choice: a step is an atomic action whose guard is its first line, so the global variables are
// the state. The laws are asserted where a client learns something: acknowledged(), observed(), kernel_dies().
//
// The environment of the checker sets these bounds, and OFF: the rule that is broken on purpose, for which a run that
// breaks a law must be found; or the WITNESS, something that must be reachable, which is asserted not to be.

c_decl {
    \#include <stdlib.h>
    static int setting(const char *name) { const char *text = getenv(name); return text ? atoi(text) : 0; }
}
byte off;
#define NO_FENCE 1
#define NO_DRAIN 2
#define EPOCH_IN_MEMORY 3
#define NO_SESSION 4
#define SERVE_EARLY 5
#define ACK_EARLY 6
#define RELEASE_BEFORE_RECORD 7
#define DEMOTE_LAST 8
#define NO_CAS 9
#define NO_RECOVERY 10
#define NO_BOOT_IDS 11
#define BOOT_OF_EPOCH 12
#define PROMOTE_EARLY 13
#define PROMOTE_UNREQUIRED 14
#define PROMOTE_UNFLUSHED 15
#define DETACH_UNEQUAL 16
#define NO_SIGN_OF_LIFE 17
#define WITNESS_TAKEOVER 18
#define WITNESS_PROMOTED 19
#define WITNESS_KERNEL 20

#define OUT 0 /* outdated */
#define INC 1 /* inconsistent */
#define UP 2  /* up_to_date */

#define IDLE 0
#define FENCING 1
#define SERVING 2
#define OVER 3 /* fenced, lost, detached or dead: does nothing any more */

#define P(w, r) ((w) * 2 + (r))
#define BIT(v) (1 << (v))
#define SLOT(w, r, i) (P(w, r) * 2 + (i))

/* --- the record */
byte state[2] = UP;
byte epoch;
bool clean = true;

/* --- replica servers */
bool alive[2] = true;
byte durable[2];                 /* epoch on the disk */
byte key_epoch[2], key_session[2]; /* highest that was opened, in memory */
byte cache[2], disk[2];          /* the block: in the kernel, on stable storage */
byte boot[2] = 1, changed[2];    /* kernel; kernel that admitted the last change, 0: none ever did (durable) */

/* --- writers: writer w has epoch w + 1 */
byte st[WRITERS], job[WRITERS], jv[WRITERS];
bool unrecovered[WRITERS];
bool was_clean[WRITERS];
#define PAIRS (WRITERS * 2)
byte view[PAIRS], session[PAIRS], seen_boot[PAIRS];
bool link[PAIRS], suspect[PAIRS], lost_changes[PAIRS], unflushed[PAIRS], syncing[PAIRS], todo[PAIRS], promoting[PAIRS];
byte prop[PAIRS]; /* 0 none; ASK_... on its way; + DONE: committed, not yet known to the writer */
#define ASK_OUT 1
#define ASK_INC 2
#define ASK_UP 3
#define DONE 4
byte asked[PAIRS]; /* of the job: 0 not asked, FLYING, OWED, ANSWERED */
#define FLYING 1
#define OWED 2
#define ANSWERED 3
#define WRITE 1    /* jobs */
#define RECOVERY 2
#define RESYNC 3

/* --- network: at most two changes of a writer are under way to a replica, an old one and its twin */
byte message[PAIRS * 2]; /* 0 none, SENT, ADMITTED */
#define SENT 1
#define ADMITTED 2
byte message_session[PAIRS * 2], message_value[PAIRS * 2];

/* --- what can still break */
byte drops, stalls, processes, kernels, kernels_at_start, values_max, sessions_max;

/* --- the clients' history of the block. Values are numbered as they are invoked; 0 is the hole at birth.
   possible: what a read may return. pending: writes that no answer ended; they may take effect.
   At a takeover every pending write of an older epoch has taken effect or never will: it moves to `possible` and
   `cut`. */
byte values, possible = 1, pending, cut, refuted;
byte excused, forgiven; /* law 1's exception: the only trusted kernel died; the next epoch may find `excused` */
byte flush_possible = 1, flush_values; /* at the last acknowledged flush */
byte served;                     /* the highest epoch that began to serve */
bool promoted;                   /* some replica came back */

#define REQUIRED(w, r) (view[P(w, r)] == UP || promoting[P(w, r)])
#define DEMOTING(w, r) (prop[P(w, r)] == ASK_OUT || prop[P(w, r)] == ASK_OUT + DONE)
#define READABLE(w, r) (view[P(w, r)] == UP && prop[P(w, r)] == 0 && link[P(w, r)] && !suspect[P(w, r)] && \
                        !lost_changes[P(w, r)])
#define ROOM(w, r) (message[SLOT(w, r, 0)] == 0 || message[SLOT(w, r, 1)] == 0)
#define SENDABLE(w, r) (link[P(w, r)] && !(REQUIRED(w, r) && (DEMOTING(w, r) || lost_changes[P(w, r)])))
#define ENDED(w, r) (asked[P(w, r)] == 0 || asked[P(w, r)] == ANSWERED)
#define ALIVE(w) (st[w] == FENCING || st[w] == SERVING)

#define ADMITS(r, w, s) (key_epoch[r] == (w) + 1 && (off == NO_SESSION || key_session[r] == (s)) || \
                         off == NO_FENCE && key_epoch[r] != (w) + 1)
#define ANSWERS(w, r) (alive[r] && ADMITS(r, w, session[P(w, r)]))

#define INSIDE(r, o, w) (off != NO_DRAIN && (off != NO_SESSION || (o) != (w)) && \
                         (message[SLOT(o, r, 0)] == ADMITTED || message[SLOT(o, r, 1)] == ADMITTED))
#if WRITERS == 2
#define DRAINED(r, w) (!INSIDE(r, 0, w) && !INSIDE(r, 1, w))
#else
#define DRAINED(r, w) (!INSIDE(r, 0, w) && !INSIDE(r, 1, w) && !INSIDE(r, 2, w))
#endif

/* E6 */
#define MAY_DEMOTE(w, r) (off == DEMOTE_LAST || READABLE(w, 1 - (r)))
#define RECORD_ALLOWS(r) (off == DEMOTE_LAST || state[r] != UP || state[1 - (r)] == UP)
#define OWNS(w) (off == NO_CAS || epoch == (w) + 1)
/* E7: sent under a lease that holds (then nobody else serves), or every replica that we trust has answered since. */
#define SHOWS_LIFE(w, r) (!REQUIRED(w, r) || link[P(w, r)] && ANSWERS(w, r))
#define MAY_READ(w) (off == NO_SIGN_OF_LIFE || served <= (w) + 1 || SHOWS_LIFE(w, 0) && SHOWS_LIFE(w, 1))

inline observed(v) {
    assert((possible | pending) & BIT(v)); /* law 2, and law 1: nothing acknowledged is missing */
    refuted = refuted | ((possible | pending) & ~((BIT(v) << 1) - 1));
    possible = BIT(v);
    pending = pending & ~BIT(v)
}

inline acknowledged(v) {
    if
    :: pending & BIT(v) ->
        possible = BIT(v);
        pending = pending & ~BIT(v);
        if :: forgiven & BIT(v) -> skip :: else -> excused = 0 fi
    :: else ->
        /* law 3: only for a change that was made before the next writer served, and that it did not lose */
        assert((cut & BIT(v)) || (possible & BIT(v)));
        assert(!(refuted & BIT(v)) || (forgiven & BIT(v)))
    fi
}

/* The client hears no answer, or an error: it may have happened. */
inline gives_up(v) {
    if
    :: pending & BIT(v) -> possible = possible | BIT(v); pending = pending & ~BIT(v)
    :: else -> skip
    fi
}

inline clear_pair(p) {
    link[p] = false; suspect[p] = false; lost_changes[p] = false; unflushed[p] = false; syncing[p] = false;
    todo[p] = false; promoting[p] = false; prop[p] = 0; asked[p] = 0; view[p] = 0; session[p] = 0; seen_boot[p] = 0
}

inline end_writer(w) {
    if :: job[w] == WRITE -> gives_up(jv[w]) :: else -> skip fi;
    st[w] = OVER; job[w] = 0; jv[w] = 0; unrecovered[w] = false; was_clean[w] = false;
    clear_pair(P(w, 0)); clear_pair(P(w, 1))
}

/* What a lost link means to the engine: engine_links.cpp, on_link_down. */
inline lose_link(w, r) {
    if
    :: link[P(w, r)] ->
        link[P(w, r)] = false;
        if :: promoting[P(w, r)] && prop[P(w, r)] == 0 -> promoting[P(w, r)] = false :: else -> skip fi;
        if
        :: syncing[P(w, r)] && !promoting[P(w, r)] ->
            syncing[P(w, r)] = false;
            if :: job[w] == RESYNC -> job[w] = 0; jv[w] = 0; asked[P(w, r)] = 0 :: else -> skip fi
        :: else -> skip
        fi;
        if
        :: asked[P(w, r)] == FLYING && REQUIRED(w, r) -> asked[P(w, r)] = OWED
        :: asked[P(w, r)] == FLYING && !REQUIRED(w, r) -> asked[P(w, r)] = 0
        :: else -> skip
        fi
    :: else -> skip
    fi
}

inline send(w, r) {
    asked[P(w, r)] = FLYING;
    if
    :: message[SLOT(w, r, 0)] == 0 ->
        message[SLOT(w, r, 0)] = SENT;
        message_session[SLOT(w, r, 0)] = session[P(w, r)];
        message_value[SLOT(w, r, 0)] = jv[w]
    :: else ->
        message[SLOT(w, r, 1)] = SENT;
        message_session[SLOT(w, r, 1)] = session[P(w, r)];
        message_value[SLOT(w, r, 1)] = jv[w]
    fi
}

inline ask(w, r) {
    if
    :: SENDABLE(w, r) -> send(w, r)
    :: !SENDABLE(w, r) && REQUIRED(w, r) -> asked[P(w, r)] = OWED
    :: else -> skip
    fi
}

inline resend(w, r) {
    if
    :: asked[P(w, r)] == OWED && SENDABLE(w, r) && REQUIRED(w, r) -> send(w, r)
    :: else -> skip
    fi
}

inline forget_messages(r, w) {
    message[SLOT(w, r, 0)] = 0; message_session[SLOT(w, r, 0)] = 0; message_value[SLOT(w, r, 0)] = 0;
    message[SLOT(w, r, 1)] = 0; message_session[SLOT(w, r, 1)] = 0; message_value[SLOT(w, r, 1)] = 0
}

inline process_dies(r) {
    alive[r] = false;
    key_epoch[r] = (off == EPOCH_IN_MEMORY -> 0 : durable[r]);
    key_session[r] = 0;
    forget_messages(r, 0); forget_messages(r, 1);
    lose_link(0, r); lose_link(1, r);
#if WRITERS > 2
    forget_messages(r, 2); lose_link(2, r);
#endif
}

#define ASKED_OUT(r) (DEMOTING(0, r) || DEMOTING(1, r) || (WRITERS > 2 && DEMOTING(WRITERS - 1, r)))

/* Law 1 promises nothing when the record trusts no other kernel, nor while the demotion of the other is on its way. */
inline kernel_dies(r) {
    boot[r] = boot[r] + 1;
    if
    :: cache[r] != disk[r] && (state[1 - r] != UP || ASKED_OUT(1 - r)) ->
        /* but what was flushed is there */
        assert((flush_possible & BIT(disk[r])) || disk[r] > flush_values || state[r] != UP);
        if :: state[r] == UP -> excused = BIT(disk[r]); forgiven = BIT(values + 1) - 1 :: else -> skip fi
    :: else -> skip
    fi;
    cache[r] = disk[r]
}

/* ------------------------------------------------------------------------------------------------ steps of a writer */

#define ATTACH(w) \
    atomic { st[w] == IDLE && epoch == (w) && (state[0] == UP || state[1] == UP) -> \
        printf("epoch %d attaches\n", (w) + 1); \
        /* R1, R12 */ \
        epoch = (w) + 1; st[w] = FENCING; was_clean[w] = clean; clean = false; \
        view[P(w, 0)] = state[0]; view[P(w, 1)] = state[1]; \
        unflushed[P(w, 0)] = !was_clean[w]; unflushed[P(w, 1)] = !was_clean[w] }

/* R2 at the server: lower keys are refused, what was admitted is waited for, the epoch is durable. */
#define FENCED_BY(w, r) (off != NO_FENCE && key_epoch[r] > (w) + 1)
#define OPEN(w, r) \
    atomic { ALIVE(w) && !link[P(w, r)] && alive[r] && session[P(w, r)] < sessions_max && \
             (FENCED_BY(w, r) || (DRAINED(r, w) && ROOM(w, r))) -> printf("epoch %d opens r%d\n", (w) + 1, r); \
        if :: FENCED_BY(w, r) -> end_writer(w) /* R5 */ \
        :: else -> \
            session[P(w, r)]++; link[P(w, r)] = true; \
            if :: key_epoch[r] < (w) + 1 -> durable[r] = (w) + 1 :: else -> skip fi; \
            key_epoch[r] = (w) + 1; key_session[r] = session[P(w, r)]; \
            hello(w, r); resend(w, r) fi }

/* Boot ids: was the kernel restarted since this writer last saw it, or (first time) since the last change? */
#define RESTARTED(w, r) (off != NO_BOOT_IDS && \
                         (seen_boot[P(w, r)] != 0 && seen_boot[P(w, r)] != boot[r] || \
                          seen_boot[P(w, r)] == 0 && !was_clean[w] && changed[r] != 0 && changed[r] != boot[r]))
inline hello(w, r) {
    if
    :: RESTARTED(w, r) ->
        if :: st[w] == FENCING && view[P(w, r)] == UP -> suspect[P(w, r)] = true :: else -> skip fi;
        if :: unflushed[P(w, r)] -> lost_changes[P(w, r)] = true :: else -> skip fi
    :: else -> skip
    fi;
    if :: off == BOOT_OF_EPOCH -> changed[r] = boot[r] :: else -> skip fi;
    seen_boot[P(w, r)] = boot[r]
}

#define READY(w, r) (view[P(w, r)] == UP && link[P(w, r)] && prop[P(w, r)] == 0)
#define FENCED_ALL(w) ((READY(w, 0) || READY(w, 1)) && \
                       (off == SERVE_EARLY || (view[P(w, 0)] != UP || READY(w, 0)) && \
                                              (view[P(w, 1)] != UP || READY(w, 1))))
#define DOUBTFUL(w, r) (view[P(w, r)] == UP && suspect[P(w, r)])
#define TRUSTED(w, r) (view[P(w, r)] == UP && !suspect[P(w, r)])
#define MUST_RECOVER(w) (off != NO_RECOVERY && !was_clean[w] && view[P(w, 0)] == UP && view[P(w, 1)] == UP)
inline trust_again(w, r) {
    if :: DOUBTFUL(w, r) -> suspect[P(w, r)] = false; lost_changes[P(w, r)] = false; unflushed[P(w, r)] = false
    :: else -> skip fi
}
/* All restarted: any of them has what was flushed. Some: those are demoted first (DEMOTE). */
#define SERVE(w) \
    atomic { st[w] == FENCING && FENCED_ALL(w) && \
             !((DOUBTFUL(w, 0) || DOUBTFUL(w, 1)) && (TRUSTED(w, 0) || TRUSTED(w, 1))) -> \
        printf("epoch %d serves\n", (w) + 1); \
        trust_again(w, 0); trust_again(w, 1); \
        st[w] = SERVING; unrecovered[w] = MUST_RECOVER(w); \
        if :: served < (w) + 1 -> \
            served = (w) + 1; cut = cut | pending; possible = possible | pending | excused; pending = 0; excused = 0 \
        :: else -> skip fi }

#define DIE(w) atomic { ALIVE(w) -> printf("epoch %d dies\n", (w) + 1); end_writer(w) }

/* R4: lost, or restarted without what it had acknowledged. */
#define DEMOTE(w, r) \
    atomic { ALIVE(w) && view[P(w, r)] == UP && prop[P(w, r)] == 0 && MAY_DEMOTE(w, r) && \
             (!link[P(w, r)] || st[w] == FENCING && suspect[P(w, r)] || st[w] == SERVING && lost_changes[P(w, r)]) -> \
        printf("epoch %d asks to demote r%d\n", (w) + 1, r); \
        prop[P(w, r)] = ASK_OUT; early_release(w, r) }
inline early_release(w, r) {
    if :: off == RELEASE_BEFORE_RECORD && asked[P(w, r)] == OWED -> asked[P(w, r)] = 0 :: else -> skip fi
}

#define TARGET(p) (prop[p] == ASK_OUT -> OUT : (prop[p] == ASK_INC -> INC : UP))
#define COMMIT(w, r) \
    atomic { ALIVE(w) && prop[P(w, r)] != 0 && prop[P(w, r)] < DONE -> \
        printf("the record decides: epoch %d, r%d\n", (w) + 1, r); \
        if :: !OWNS(w) -> end_writer(w) /* R5 */ \
        :: OWNS(w) && (prop[P(w, r)] != ASK_OUT || RECORD_ALLOWS(r)) -> \
            state[r] = TARGET(P(w, r)); prop[P(w, r)] = prop[P(w, r)] + DONE; \
            assert(state[0] == UP || state[1] == UP) /* R12: losing the last is a person's decision */ \
        :: else -> prop[P(w, r)] = 0; resend(w, r) fi }

#define HEAR(w, r) \
    atomic { ALIVE(w) && prop[P(w, r)] > DONE && ROOM(w, r) -> printf("epoch %d hears of r%d\n", (w) + 1, r); \
        if :: prop[P(w, r)] == ASK_OUT + DONE -> \
            prop[P(w, r)] = 0; view[P(w, r)] = OUT; promoting[P(w, r)] = false; syncing[P(w, r)] = false; \
            suspect[P(w, r)] = false; lost_changes[P(w, r)] = false; \
            if :: asked[P(w, r)] == OWED || asked[P(w, r)] == FLYING && job[w] != RESYNC -> asked[P(w, r)] = 0 \
            :: else -> skip fi \
        :: prop[P(w, r)] == ASK_INC + DONE -> \
            prop[P(w, r)] = 0; view[P(w, r)] = INC; begin_resync(w, r) \
        :: else -> \
            prop[P(w, r)] = 0; view[P(w, r)] = UP; promoting[P(w, r)] = false; syncing[P(w, r)] = false; \
            promoted = true; resend(w, r) fi }

inline begin_resync(w, r) {
    if
    :: st[w] == SERVING && link[P(w, r)] ->
        syncing[P(w, r)] = true; todo[P(w, r)] = true; lost_changes[P(w, r)] = false; unflushed[P(w, r)] = false
    :: else -> skip
    fi
}

/* Its host forgot what it had acknowledged, it may not be demoted, and nobody else has it: all I/O fails. */
#define LOSE(w, r) \
    atomic { st[w] == SERVING && view[P(w, r)] == UP && lost_changes[P(w, r)] && link[P(w, r)] && \
             prop[P(w, r)] == 0 && \
             !(view[P(w, 1 - (r))] == UP && !suspect[P(w, 1 - (r))] && !lost_changes[P(w, 1 - (r))]) -> \
        printf("epoch %d is lost with r%d\n", (w) + 1, r); \
        end_writer(w) }

#define RESYNC_BEGIN(w, r) \
    atomic { st[w] == SERVING && view[P(w, r)] != UP && !promoting[P(w, r)] && !syncing[P(w, r)] && \
             prop[P(w, r)] == 0 && link[P(w, r)] -> printf("epoch %d begins to resync r%d\n", (w) + 1, r); \
        if :: view[P(w, r)] == INC -> begin_resync(w, r) :: else -> prop[P(w, r)] = ASK_INC fi }

/* Its answers are required from here on, it is flushed, the record may call it up_to_date. */
#define PROMOTE(w, r) \
    atomic { st[w] == SERVING && syncing[P(w, r)] && (off == PROMOTE_EARLY || !todo[P(w, r)]) && \
             prop[P(w, r)] == 0 && link[P(w, r)] && job[w] != RESYNC && ANSWERS(w, r) -> \
        printf("epoch %d flushes r%d and asks to promote it\n", (w) + 1, r); \
        promoting[P(w, r)] = (off != PROMOTE_UNREQUIRED); \
        if :: off != PROMOTE_UNFLUSHED -> disk[r] = cache[r]; unflushed[P(w, r)] = false :: else -> skip fi; \
        prop[P(w, r)] = ASK_UP }

#define WRITE_BEGINS(w) \
    atomic { st[w] == SERVING && job[w] == 0 && values < values_max && !unrecovered[w] && ROOM(w, 0) && ROOM(w, 1) -> \
        printf("epoch %d writes %d\n", (w) + 1, values + 1); \
        values++; job[w] = WRITE; jv[w] = values; \
        if :: served <= (w) + 1 -> pending = pending | BIT(values) :: else -> skip fi; \
        change(w, 0); change(w, 1) }
inline change(w, r) {
    if :: REQUIRED(w, r) || syncing[P(w, r)] -> ask(w, r) :: else -> skip fi
}

/* R7: equal from one source before anything is read or written. */
#define RECOVER(w, s) \
    atomic { st[w] == SERVING && unrecovered[w] && job[w] == 0 && READABLE(w, s) && ANSWERS(w, s) && \
             ROOM(w, 0) && ROOM(w, 1) -> printf("epoch %d recovers from r%d, which has %d\n", (w) + 1, s, cache[s]); \
        if :: REQUIRED(w, 1 - (s)) -> job[w] = RECOVERY; jv[w] = cache[s]; ask(w, 1 - (s)) \
        :: else -> unrecovered[w] = false fi }

/* R8: copied under the range's lock, that is with no other change in flight. */
#define COPY(w, r) \
    atomic { st[w] == SERVING && syncing[P(w, r)] && todo[P(w, r)] && !unrecovered[w] && job[w] == 0 && \
             READABLE(w, 1 - (r)) && ANSWERS(w, 1 - (r)) && link[P(w, r)] && ROOM(w, r) -> \
        printf("epoch %d copies to r%d\n", (w) + 1, r); \
        job[w] = RESYNC; jv[w] = cache[1 - (r)]; send(w, r) }

#define FINISHED(w) (ENDED(w, 0) && ENDED(w, 1) || off == ACK_EARLY && job[w] == WRITE && \
                     (asked[P(w, 0)] == ANSWERED || asked[P(w, 1)] == ANSWERED))
#define FINISH(w) \
    atomic { st[w] == SERVING && job[w] != 0 && FINISHED(w) -> \
        printf("epoch %d ends job %d of %d\n", (w) + 1, job[w], jv[w]); \
        /* R3 */ \
        if :: job[w] == WRITE -> \
            if :: asked[P(w, 0)] == ANSWERED || asked[P(w, 1)] == ANSWERED -> acknowledged(jv[w]); witness(w) \
            :: else -> gives_up(jv[w]) fi \
        :: job[w] == RECOVERY -> unrecovered[w] = false; suspect[P(w, 0)] = false; suspect[P(w, 1)] = false \
        :: else -> \
            if :: asked[P(w, 0)] == ANSWERED && syncing[P(w, 0)] -> todo[P(w, 0)] = false :: else -> skip fi; \
            if :: asked[P(w, 1)] == ANSWERED && syncing[P(w, 1)] -> todo[P(w, 1)] = false :: else -> skip fi \
        fi; \
        job[w] = 0; jv[w] = 0; asked[P(w, 0)] = 0; asked[P(w, 1)] = 0 }

/* R10. Request and answer in one step: what is delayed between them only widens the interval that the law allows. */
#define READ(w, r) \
    atomic { st[w] == SERVING && job[w] == 0 && !unrecovered[w] && READABLE(w, r) && ANSWERS(w, r) && MAY_READ(w) -> \
        printf("epoch %d reads %d from r%d\n", (w) + 1, cache[r], r); \
        observed(cache[r]) }

/* R3: reaches every required replica. In one step: a replica that cannot answer now holds it. */
#define FLUSHABLE(w, r) (!REQUIRED(w, r) || SENDABLE(w, r) && ANSWERS(w, r))
#define FLUSH(w) \
    atomic { kernels_at_start > 0 && st[w] == SERVING && job[w] == 0 && !unrecovered[w] && \
             FLUSHABLE(w, 0) && FLUSHABLE(w, 1) && MAY_READ(w) && (unflushed[P(w, 0)] || unflushed[P(w, 1)]) -> \
        printf("epoch %d flushes\n", (w) + 1); \
        flush(w, 0); flush(w, 1); flush_possible = possible | pending; flush_values = values }
inline flush(w, r) {
    if
    :: REQUIRED(w, r) ->
        disk[r] = cache[r]; unflushed[P(w, r)] = false;
        assert((possible | pending) & BIT(disk[r])) /* law 1: a flush claims nothing that is gone */
    :: else -> skip
    fi
}

/* R11 */
#define DETACH(w) \
    atomic { st[w] == SERVING && job[w] == 0 && (off == DETACH_UNEQUAL || !unrecovered[w]) && \
             prop[P(w, 0)] == 0 && prop[P(w, 1)] == 0 && OWNS(w) && \
             FLUSHABLE(w, 0) && FLUSHABLE(w, 1) -> printf("epoch %d detaches\n", (w) + 1); \
        if :: REQUIRED(w, 0) -> disk[0] = cache[0] :: else -> skip fi; \
        if :: REQUIRED(w, 1) -> disk[1] = cache[1] :: else -> skip fi; \
        clean = true; end_writer(w) }

/* ----------------------------------------------------------------------------- steps of the network and the servers */

inline take_out(w, r, i) {
    if
    :: i == 0 ->
        message[SLOT(w, r, 0)] = message[SLOT(w, r, 1)];
        message_session[SLOT(w, r, 0)] = message_session[SLOT(w, r, 1)];
        message_value[SLOT(w, r, 0)] = message_value[SLOT(w, r, 1)]
    :: else -> skip
    fi;
    message[SLOT(w, r, 1)] = 0; message_session[SLOT(w, r, 1)] = 0; message_value[SLOT(w, r, 1)] = 0
}
#define CURRENT(w, r, i) (link[P(w, r)] && session[P(w, r)] == message_session[SLOT(w, r, i)])

/* The change is in the kernel; its answer arrives, or the connection breaks first (one of `drops`). */
inline apply(w, r, i, lost) {
    cache[r] = message_value[SLOT(w, r, i)];
    if
    :: CURRENT(w, r, i) && asked[P(w, r)] == FLYING ->
        if
        :: lost -> drops--; lose_link(w, r)
        :: else -> asked[P(w, r)] = ANSWERED; unflushed[P(w, r)] = true
        fi
    :: else -> skip
    fi;
    take_out(w, r, i)
}

/* A change arrives: the server looks at its key, stores its kernel's id, applies it and answers. */
#define ARRIVE(w, r, i, lost) \
    atomic { message[SLOT(w, r, i)] == SENT && alive[r] && (!(lost) || drops > 0 && CURRENT(w, r, i)) -> \
        printf("a change by epoch %d to %d arrives at r%d, answer lost: %d\n", (w) + 1, \
               message_value[SLOT(w, r, i)], r, lost); \
        if :: ADMITS(r, w, message_session[SLOT(w, r, i)]) -> admit_change(r); apply(w, r, i, lost) \
        :: else -> \
            if :: CURRENT(w, r, i) -> lose_link(w, r) :: else -> skip fi; \
            take_out(w, r, i) fi }

/* One of `stalls`: it is admitted, and the thread that applies it sleeps. */
#define STALL(w, r, i) \
    atomic { stalls > 0 && message[SLOT(w, r, i)] == SENT && alive[r] && \
             ADMITS(r, w, message_session[SLOT(w, r, i)]) -> \
        printf("a change by epoch %d sleeps inside r%d\n", (w) + 1, r); \
        stalls--; message[SLOT(w, r, i)] = ADMITTED; admit_change(r) }
#define WAKE(w, r, i) \
    atomic { message[SLOT(w, r, i)] == ADMITTED && alive[r] -> \
        printf("a change by epoch %d wakes up in r%d\n", (w) + 1, r); \
        apply(w, r, i, false) }
inline admit_change(r) { if :: off != BOOT_OF_EPOCH -> changed[r] = boot[r] :: else -> skip fi }

#define CUT(w, r) atomic { drops > 0 && link[P(w, r)] -> \
        printf("the link of epoch %d to r%d is cut\n", (w) + 1, r); \
        drops--; lose_link(w, r) }

/* The replicas are alike: it is always the first one whose host restarts. */
#define SERVER(r) \
    :: atomic { processes > 0 && alive[r] -> printf("the server of r%d dies\n", r); processes--; process_dies(r) } \
    :: atomic { r == 0 && kernels > 0 && alive[r] -> \
        printf("the kernel of r%d dies\n", r); \
        kernels--; process_dies(r); kernel_dies(r) } \
    :: atomic { r == 0 && kernels > 0 && alive[r] && cache[r] != disk[r] -> \
        printf("the kernel of r%d dies, all was written back\n", r); \
        kernels--; disk[r] = cache[r]; process_dies(r); kernel_dies(r) } \
    :: atomic { !alive[r] -> printf("r%d is back\n", r); alive[r] = true }

inline witness(w) {
    /* the last writer acknowledges after a demotion; a replica that came back takes part in an acknowledgement; the
       last writer acknowledges after a kernel's death */
    assert(off != WITNESS_TAKEOVER || !(w == WRITERS - 1 && state[0] != UP));
    assert(off != WITNESS_PROMOTED || !(promoted && state[0] == UP && state[1] == UP));
    assert(off != WITNESS_KERNEL || !(w == WRITERS - 1 && kernels < kernels_at_start))
}

/* Who acts next, chosen before what he does: the text of each step is there once. Both are 0 between steps. */
byte w, r;

init {
    atomic { c_code {
        now.off = setting("OFF"); now.drops = setting("DROPS"); now.stalls = setting("STALLS");
        now.processes = setting("PROCESSES"); now.kernels = now.kernels_at_start = setting("KERNELS");
        now.values_max = setting("VALUES"); now.sessions_max = setting("SESSIONS");
    } }
end:do /* nothing left that could happen is no error */
    :: atomic {
        if :: w = 0 :: w = 1
#if WRITERS > 2
           :: w = 2
#endif
        fi;
        if
        :: if
           :: ATTACH(w) :: SERVE(w) :: DIE(w) :: WRITE_BEGINS(w) :: FINISH(w) :: FLUSH(w) :: DETACH(w) :: else
           fi
        :: if :: r = 0 :: r = 1 fi;
           if
           :: OPEN(w, r) :: CUT(w, r) :: DEMOTE(w, r) :: COMMIT(w, r) :: HEAR(w, r) :: LOSE(w, r) :: RESYNC_BEGIN(w, r)
           :: COPY(w, r) :: PROMOTE(w, r) :: RECOVER(w, r) :: READ(w, r)
           :: ARRIVE(w, r, 0, false) :: ARRIVE(w, r, 0, true) :: ARRIVE(w, r, 1, false) :: ARRIVE(w, r, 1, true)
           :: STALL(w, r, 0) :: STALL(w, r, 1) :: WAKE(w, r, 0) :: WAKE(w, r, 1) :: else
           fi
        fi;
        w = 0; r = 0 }
    :: atomic { if :: r = 0 :: r = 1 fi; if SERVER(r) :: else fi; r = 0 }
    od
}
