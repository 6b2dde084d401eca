/* Warps, blocks and grids. */

/* Goes on until the warp is at a barrier or done. */
static void advance(const Program *p, Warp *w) {
    while (w->depth) {
        Path *path = &w->paths[w->depth - 1];
        path->mask &= w->alive;
        if (!path->mask || path->pc == path->until) {
            w->depth--;
            continue;
        }
        uint32_t mask = path->mask;
        const Instruction *it = &p->code[path->pc];
        uint32_t does = mask;
        if (it->guard >= 0) {
            Word *guard = w->regs + (size_t)it->guard * LANES;
            EACH if ((guard[l] & 1) == (Word)it->unless) does &= ~(1u << l);
        }
        if (it->op == BRA) {
            if (does == mask)
                path->pc = it->target;
            else if (!does)
                path->pc++;
            else {
                if (w->depth + 2 > MOST_PATHS) stop("ways parted too often", it->text);
                int behind = path->pc + 1;
                path->pc = it->meet;
                w->paths[w->depth++] = (Path){behind, it->meet, mask & ~does};
                w->paths[w->depth++] = (Path){it->target, it->meet, does};
            }
            continue;
        }
        path->pc++;
        if (it->op == RET)
            w->alive &= ~does;
        else if (it->op == BAR) {
            if (does != w->alive) stop("a part of a warp", it->text);
            return;
        } else if (does)
            perform(w, it, does);
    }
}

typedef struct {
    const Program *program;
    unsigned grid[3], block[3], shared, next, all;
    unsigned char *params;
} Launch;

static void *blocks_of(void *given) {
    Launch *launch = given;
    const Program *p = launch->program;
    unsigned threads = launch->block[0] * launch->block[1] * launch->block[2], warps = (threads + LANES - 1) / LANES;
    static const char *axes = "xyz";
    size_t file = (size_t)p->registers * LANES;
    Word *regs = malloc(warps * file * sizeof(Word));
    Warp *team = calloc(warps, sizeof *team);
    long shared_bytes = launch->shared, local_bytes = 0;
    for (int i = 0; i < p->variables_count; i++) {
        if (p->variables[i].space == 's') shared_bytes += p->variables[i].size + 1024;
        if (p->variables[i].space == 'l') local_bytes += p->variables[i].size + 64;
    }
    unsigned char *shared = aligned_alloc(1024, (shared_bytes + 2047) / 1024 * 1024),
                  *local = malloc((size_t)threads * (local_bytes + 16) + 64);
    int tid[3], ntid[3], ctaid[3], nctaid[3], laneid = -1, warpid = -1;
    for (int i = 0; i < 3; i++) {
        char name[32];
        tid[i] = ntid[i] = ctaid[i] = nctaid[i] = -1;
        for (int k = 0; k < p->names_count; k++) {
            snprintf(name, sizeof name, "%%tid.%c", axes[i]);
            if (!strcmp(p->names[k].name, name)) tid[i] = p->names[k].reg;
            snprintf(name, sizeof name, "%%ntid.%c", axes[i]);
            if (!strcmp(p->names[k].name, name)) ntid[i] = p->names[k].reg;
            snprintf(name, sizeof name, "%%ctaid.%c", axes[i]);
            if (!strcmp(p->names[k].name, name)) ctaid[i] = p->names[k].reg;
            snprintf(name, sizeof name, "%%nctaid.%c", axes[i]);
            if (!strcmp(p->names[k].name, name)) nctaid[i] = p->names[k].reg;
            if (!strcmp(p->names[k].name, "%laneid")) laneid = p->names[k].reg;
            if (!strcmp(p->names[k].name, "%warpid")) warpid = p->names[k].reg;
        }
    }
    for (;;) {
        unsigned block = __atomic_fetch_add(&launch->next, 1, __ATOMIC_RELAXED);
        if (block >= launch->all) break;
        unsigned where[3] = {block % launch->grid[0], block / launch->grid[0] % launch->grid[1],
                             block / launch->grid[0] / launch->grid[1]};
        memset(shared, 0xff, shared_bytes); /* Whoever reads what wasn't written reads NaN. */
        for (unsigned v = 0; v < warps; v++) {
            Warp *w = &team[v];
            w->alive = 0;
            w->regs = regs + v * file;
            unsigned char *s = shared;
            long in_local = 0;
            for (int i = 0; i < p->variables_count; i++) {
                const Variable *variable = &p->variables[i];
                for (int l = 0; l < LANES; l++) {
                    Word *r = &w->regs[(size_t)variable->reg * LANES + l];
                    if (variable->space == 's')
                        *r = (Word)s;
                    else if (variable->space == 'g')
                        *r = (Word)variable->bytes;
                    else
                        *r = (Word)local + (v * LANES + l) % threads * (Word)(local_bytes + 16) + in_local;
                }
                if (variable->space == 's') s += variable->size ? (variable->size + 1023) / 1024 * 1024 : 0;
                if (variable->space == 'l') in_local += (variable->size + 15) / 16 * 16;
            }
            for (int i = 0; i < p->params; i++)
                for (int l = 0; l < LANES; l++)
                    w->regs[(size_t)p->param_reg[i] * LANES + l] = (Word)launch->params + p->param_offset[i];
            for (int l = 0; l < LANES; l++) {
                unsigned thread = v * LANES + l;
                if (thread >= threads) continue;
                w->alive |= 1u << l;
                unsigned position[3] = {thread % launch->block[0], thread / launch->block[0] % launch->block[1],
                                        thread / launch->block[0] / launch->block[1]};
                for (int i = 0; i < 3; i++) {
                    if (tid[i] >= 0) w->regs[(size_t)tid[i] * LANES + l] = position[i];
                    if (ntid[i] >= 0) w->regs[(size_t)ntid[i] * LANES + l] = launch->block[i];
                    if (ctaid[i] >= 0) w->regs[(size_t)ctaid[i] * LANES + l] = where[i];
                    if (nctaid[i] >= 0) w->regs[(size_t)nctaid[i] * LANES + l] = launch->grid[i];
                }
                if (laneid >= 0) w->regs[(size_t)laneid * LANES + l] = l;
                if (warpid >= 0) w->regs[(size_t)warpid * LANES + l] = v;
            }
            w->depth = 1;
            w->paths[0] = (Path){0, p->length, w->alive};
        }
        for (int alive = 1; alive;) {
            alive = 0;
            for (unsigned v = 0; v < warps; v++) {
                advance(p, &team[v]);
                alive |= team[v].depth != 0;
            }
        }
    }
    free(regs);
    free(team);
    free(shared);
    free(local);
    return NULL;
}

static void interpret(const Program *p, const unsigned grid[3], const unsigned block[3], unsigned shared,
                      void **arguments) {
    Launch launch = {.program = p, .shared = shared, .params = calloc(1, p->param_bytes + 64)};
    launch.all = 1;
    for (int i = 0; i < 3; i++) {
        launch.grid[i] = grid[i];
        launch.block[i] = block[i];
        launch.all *= grid[i];
    }
    for (int i = 0; i < p->params; i++) memcpy(launch.params + p->param_offset[i], arguments[i], p->param_size[i]);
    long threads = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t helpers[64];
    int count = threads > 64 ? 63 : (int)threads - 1;
    if (launch.all == 1) count = 0;
    for (int i = 0; i < count; i++) pthread_create(&helpers[i], NULL, blocks_of, &launch);
    blocks_of(&launch);
    for (int i = 0; i < count; i++) pthread_join(helpers[i], NULL);
    free(launch.params);
}
