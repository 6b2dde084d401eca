/* Kernels of PTX, interpreted: what a GPU computes, slowly, on any machine. Included by idle_cuda.c.
 *
 * A warp's 32 threads go on together; where a branch parts them, one way is gone after the other, until both meet.
 * Warps of a block go on by turns from barrier to barrier, blocks on all processors. Shared memory begins as NaN. All
 * address spaces are the host's memory. Registers are 64 bits; a fragment of `wmma` is in an order of its own, those of
 * `mma`, `ldmatrix` and `stmatrix` in the order that PTX gives them. It knows the instructions that LLVM writes for
 * CubeCL's kernels, and stops at any other. */
#include <ctype.h>
#include <math.h>
#include <pthread.h>
#include <unistd.h>

enum { LANES = 32, MOST_OPERANDS = 40 };
typedef uint64_t Word;

// clang-format off
enum Op { MOV, PACK, UNPACK, ADD, SUB, MUL, MULHI, MULWIDE, MAD, MADHI, MADWIDE, FMA, DIV, REM, MIN, MAX, NEG, ABS, NOT, AND,
    OR, XOR, SHL, SHR, BFE, CLZ, POPC, PRMT, SHF, SELP, SETP, CVT, LD, ST, ATOM, BRA, RET, BAR, NOP, SHFL, ACTIVE, MMA, LDMATRIX,
    STMATRIX, WLOAD, WMMA, WSTORE, EX2, LG2, RCP, SQRT, RSQRT, SIN, COS, TANH, COPYSIGN };
// clang-format on
enum Type { B8, B16, B32, B64, U8, U16, U32, U64, S8, S16, S32, S64, F16, F16X2, BF16, BF16X2, F32, F64, TF32, PRED };

/* Which register, in words of a warp's file; where a constant lies; or what is at an address. */
typedef struct {
    int reg;
    Word *constant;
    long offset;
} Operand;

typedef struct {
    enum Op op;
    enum Type type, from;
    int guard, unless; /* the predicate's register or -1, and whether it must be false */
    int meet;          /* of a branch: where both ways come together */
    int count, vector; /* operands, and how many of them are the first vector */
    int target;
    char name[64];
    const char *text;
    int nan, carry_in, carry_out, saturate, rounds, negated, compare;
    int m, n, k, matrix, by_column, transposed, pieces;
    Operand operands[MOST_OPERANDS];
} Instruction;

typedef struct {
    char name[96];
    int reg;
} Name;
typedef struct {
    int reg;
    long size;
    int space;
    unsigned char *bytes;
} Variable; /* space: s, l or g */

typedef struct {
    Instruction *code;
    int length, registers, names_count, variables_count;
    Name *names;
    Variable *variables;
    int param_reg[64], params;
    long param_offset[64], param_size[64], param_bytes;
} Program;

/* Threads that go on together from `pc`, until they meet those that they parted from, at `until`. */
typedef struct {
    int pc, until;
    uint32_t mask;
} Path;
enum { MOST_PATHS = 256 };
typedef struct {
    Word *regs;
    uint32_t alive;
    int carry[LANES], depth;
    Path paths[MOST_PATHS];
} Warp;

static void stop(const char *what, const char *text) {
    fprintf(stderr, "PTX: %s: %.*s\n", what, (int)strcspn(text, "\n"), text);
    abort();
}

/* ---- Numbers ---- */
static inline float f32(Word w) {
    union {
        uint32_t u;
        float f;
    } x = {.u = (uint32_t)w};
    return x.f;
}
static inline Word w32(float f) {
    union {
        float f;
        uint32_t u;
    } x = {.f = f};
    return x.u;
}
static inline double f64(Word w) {
    union {
        Word u;
        double f;
    } x = {.u = w};
    return x.f;
}
static inline Word w64(double f) {
    union {
        double f;
        Word u;
    } x = {.f = f};
    return x.u;
}
static inline float bf16(Word w) { return f32((w & 0xffff) << 16); }
static inline Word to_bf16(float f) {
    uint32_t u = (uint32_t)w32(f);
    if (f != f) return 0x7fff;
    return (u + 0x7fff + ((u >> 16) & 1)) >> 16;
}
static inline float f16(Word w) {
    _Float16 h;
    uint16_t u = (uint16_t)w;
    memcpy(&h, &u, 2);
    return (float)h;
}
static inline Word to_f16(float f) {
    _Float16 h = (_Float16)f;
    uint16_t u;
    memcpy(&u, &h, 2);
    return u;
}
static inline Word to_tf32(float f) {
    uint32_t u = (uint32_t)w32(f);
    return f != f ? u : ((u + 0x1000) & 0xffffe000u);
}
static inline float half_of(enum Type t, Word w) { return t == BF16 || t == BF16X2 ? bf16(w) : f16(w); }
static inline Word to_half(enum Type t, float f) { return t == BF16 || t == BF16X2 ? to_bf16(f) : to_f16(f); }

static int bits_of(enum Type t) {
    switch (t) {
    case B8:
    case U8:
    case S8: return 8;
    case B16:
    case U16:
    case S16:
    case F16:
    case BF16: return 16;
    case B64:
    case U64:
    case S64:
    case F64: return 64;
    case PRED: return 1;
    default: return 32;
    }
}
static int is_signed(enum Type t) { return t == S8 || t == S16 || t == S32 || t == S64; }
static inline int64_t extend(Word w, int bits) {
    return bits == 64 ? (int64_t)w : (int64_t)(w << (64 - bits)) >> (64 - bits);
}
static inline Word cut(Word w, int bits) { return bits == 64 ? w : w & (((Word)1 << bits) - 1); }

/* ---- Reading ---- */
static int type_named(const char *s, enum Type *t) {
    static const char *names[] = {"b8",  "b16", "b32", "b64",   "u8",   "u16",    "u32", "u64", "s8",   "s16",
                                  "s32", "s64", "f16", "f16x2", "bf16", "bf16x2", "f32", "f64", "tf32", "pred"};
    for (int i = 0; i < 20; i++)
        if (!strcmp(s, names[i])) {
            *t = i;
            return 1;
        }
    return 0;
}

static int reg_of(Program *p, const char *name) {
    for (int i = p->names_count - 1; i >= 0; i--)
        if (!strcmp(p->names[i].name, name)) return p->names[i].reg;
    p->names = realloc(p->names, (p->names_count + 1) * sizeof *p->names);
    snprintf(p->names[p->names_count].name, sizeof p->names[0].name, "%s", name);
    p->names[p->names_count].reg = p->registers++;
    return p->names[p->names_count++].reg;
}

/* %r12, %rd3: numbered ones have places of their own, found without a search. */
typedef struct {
    char prefix[8];
    int first, count;
} Bank;
static Bank banks[16];
static int banks_count;

static int register_named(Program *p, const char *name) {
    if (name[0] == '%') {
        int n = 1;
        while (isalpha((unsigned char)name[n])) n++;
        if (isdigit((unsigned char)name[n]))
            for (int i = 0; i < banks_count; i++)
                if (!strncmp(banks[i].prefix, name, n) && banks[i].prefix[n] == 0)
                    return banks[i].first + atoi(name + n);
    }
    return reg_of(p, name);
}

static Operand operand(Program *p, const char *s) {
    Operand o = {-1, NULL, 0};
    char name[128];
    while (*s == ' ' || *s == '\t') s++;
    int negate = *s == '!';
    if (negate) s++;
    if (*s == '[') {
        int n = 0;
        s++;
        while (*s && *s != '+' && *s != ']') name[n++] = *s++;
        name[n] = 0;
        if (*s == '+') o.offset = strtol(s + 1, NULL, 0);
        if (isdigit((unsigned char)name[0])) stop("an address that is a number", s);
        o.reg = register_named(p, name);
        return o;
    }
    Word value;
    if (s[0] == '0' && (s[1] == 'f' || s[1] == 'F'))
        value = strtoul(s + 2, NULL, 16);
    else if (s[0] == '0' && (s[1] == 'd' || s[1] == 'D'))
        value = strtoull(s + 2, NULL, 16);
    else if (isdigit((unsigned char)*s))
        value = strtoull(s, NULL, 0);
    else if (*s == '-' && isdigit((unsigned char)s[1]))
        value = (Word)strtoll(s, NULL, 0);
    else {
        int n = 0;
        while (*s && *s != ' ' && *s != '\t' && n < 120) name[n++] = *s++;
        name[n] = 0;
        o.reg = register_named(p, name);
        return o;
    }
    o.constant = malloc(LANES * sizeof(Word));
    for (int i = 0; i < LANES; i++) o.constant[i] = value;
    return o;
}

static enum Op op_named(const char *s, int *found) {
    static const struct {
        const char *name;
        enum Op op;
    } ops[] = {{"mov", MOV},
               {"cvta", MOV},
               {"add", ADD},
               {"sub", SUB},
               {"mul", MUL},
               {"mad", MAD},
               {"madc", MAD},
               {"addc", ADD},
               {"fma", FMA},
               {"div", DIV},
               {"rem", REM},
               {"min", MIN},
               {"max", MAX},
               {"neg", NEG},
               {"abs", ABS},
               {"not", NOT},
               {"and", AND},
               {"or", OR},
               {"xor", XOR},
               {"shl", SHL},
               {"shr", SHR},
               {"bfe", BFE},
               {"clz", CLZ},
               {"popc", POPC},
               {"prmt", PRMT},
               {"shf", SHF},
               {"selp", SELP},
               {"setp", SETP},
               {"cvt", CVT},
               {"ld", LD},
               {"st", ST},
               {"atom", ATOM},
               {"bra", BRA},
               {"ret", RET},
               {"exit", RET},
               {"bar", BAR},
               {"barrier", BAR},
               {"membar", NOP},
               {"fence", NOP},
               {"shfl", SHFL},
               {"activemask", ACTIVE},
               {"mma", MMA},
               {"ldmatrix", LDMATRIX},
               {"stmatrix", STMATRIX},
               {"ex2", EX2},
               {"lg2", LG2},
               {"rcp", RCP},
               {"sqrt", SQRT},
               {"rsqrt", RSQRT},
               {"sin", SIN},
               {"cos", COS},
               {"tanh", TANH},
               {"copysign", COPYSIGN}};
    for (unsigned i = 0; i < sizeof ops / sizeof *ops; i++)
        if (!strcmp(s, ops[i].name)) {
            *found = 1;
            return ops[i].op;
        }
    *found = 0;
    return NOP;
}

/* One instruction, without its label and semicolon. */
static void read_instruction(Program *p, char *s, Instruction *it, char *target) {
    memset(it, 0, sizeof *it);
    it->text = strdup(s);
    it->guard = -1;
    it->target = -1;
    *target = 0;
    if (*s == '@') {
        char name[64];
        int n = 0;
        s++;
        if (*s == '!') {
            it->unless = 1;
            s++;
        }
        while (*s && !isspace((unsigned char)*s)) name[n++] = *s++;
        name[n] = 0;
        it->guard = register_named(p, name);
        while (isspace((unsigned char)*s)) s++;
    }
    char mnemonic[160];
    int n = 0;
    while (*s && !isspace((unsigned char)*s)) mnemonic[n++] = *s++;
    mnemonic[n] = 0;
    snprintf(it->name, sizeof it->name, "%.63s", mnemonic);
    char *parts[24];
    int count = 0;
    for (char *part = strtok(mnemonic, "."); part && count < 24; part = strtok(NULL, ".")) parts[count++] = part;
    int found, types = 0;
    it->op = op_named(parts[0], &found);
    it->carry_in = !strcmp(parts[0], "madc") || !strcmp(parts[0], "addc");
    it->pieces = 1;
    static const char *comparisons[] = {"eq", "ne",  "lt",  "le",  "gt",  "ge",  "lo",  "ls",  "hi",
                                        "hs", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"};
    it->compare = -1;
    for (int i = 1; i < count; i++) {
        enum Type t;
        if (type_named(parts[i], &t)) {
            if (types == 0)
                it->type = it->from = t;
            else
                it->from = t;
            types++;
        } else if (!strcmp(parts[i], "hi")) {
            if (it->op == MUL)
                it->op = MULHI;
            else if (it->op == MAD)
                it->op = MADHI;
        } else if (!strcmp(parts[i], "wide"))
            it->op = it->op == MUL ? MULWIDE : MADWIDE;
        else if (!strcmp(parts[i], "cc"))
            it->carry_out = 1;
        else if (!strcmp(parts[i], "NaN"))
            it->nan = 1;
        else if (!strcmp(parts[i], "sat"))
            it->saturate = 1;
        else if (!strcmp(parts[i], "rm") || !strcmp(parts[i], "rmi"))
            it->rounds = 'm';
        else if (!strcmp(parts[i], "rp") || !strcmp(parts[i], "rpi"))
            it->rounds = 'p';
        else if (!strcmp(parts[i], "rz") || !strcmp(parts[i], "rzi"))
            it->rounds = 'z';
        else if (!strcmp(parts[i], "rni"))
            it->rounds = 'n';
        else if (!strcmp(parts[i], "v2"))
            it->vector = 2;
        else if (!strcmp(parts[i], "v4"))
            it->vector = 4;
        else if (!strcmp(parts[i], "trans"))
            it->transposed = 1;
        else if (!strcmp(parts[i], "warp")) {
            if (it->op == BAR) it->op = NOP;
        } else if (parts[i][0] == 'x' && isdigit((unsigned char)parts[i][1]))
            it->pieces = atoi(parts[i] + 1);
        else if (parts[i][0] == 'm' && isdigit((unsigned char)parts[i][1]))
            sscanf(parts[i], "m%dn%dk%d", &it->m, &it->n, &it->k);
        if (it->op == SETP && it->compare < 0)
            for (int c = 0; c < 18; c++)
                if (!strcmp(parts[i], comparisons[c])) it->compare = c;
        if (it->op == SHFL) {
            if (!strcmp(parts[i], "bfly")) it->matrix = 'b';
            if (!strcmp(parts[i], "idx")) it->matrix = 'i';
            if (!strcmp(parts[i], "up")) it->matrix = 'u';
            if (!strcmp(parts[i], "down")) it->matrix = 'd';
        }
        if (it->op == SHF && !strcmp(parts[i], "l")) it->matrix = 'l';
    }
    if (!strcmp(parts[0], "wmma")) {
        found = 1;
        if (!strcmp(parts[1], "load")) {
            it->op = WLOAD;
            it->matrix = parts[2][0];
            it->by_column = !strcmp(parts[5], "col");
        } else if (!strcmp(parts[1], "store")) {
            it->op = WSTORE;
            it->by_column = !strcmp(parts[5], "col");
        } else {
            it->op = WMMA;
            if (types == 2)
                it->from = F16;
            else
                type_named(parts[count - 2], &it->from);
        }
    }
    if (it->op == MMA) type_named(parts[count - 2], &it->from);
    if (!found) stop("an instruction that the interpreter doesn't know", it->text);
    /* Operands: a list of names, of which some are in braces. */
    while (isspace((unsigned char)*s)) s++;
    if (it->op == BRA) {
        sscanf(s, "%95s", target);
        return;
    }
    char word[160];
    int in_braces = 0, groups = 0, first_group = 0;
    n = 0;
    for (;; s++) {
        if (*s == '{') {
            in_braces = 1;
            if (it->count == 0) first_group = 1;
            groups++;
            continue;
        }
        if (*s == '|') {
            word[n] = 0;
            it->operands[it->count++] = operand(p, word);
            it->negated = 1;
            n = 0;
            continue;
        }
        if (*s == ',' || *s == '}' || *s == 0) {
            word[n] = 0;
            if (n) it->operands[it->count++] = operand(p, word);
            n = 0;
            if (*s == '}') {
                in_braces = 0;
                if (it->op == MOV && first_group && groups == 1 && !it->vector) {
                    it->op = UNPACK;
                    it->vector = it->count;
                }
            }
            if (*s == 0) break;
            continue;
        }
        if (!isspace((unsigned char)*s)) word[n++] = *s;
    }
    if (it->op == MOV && groups == 1 && it->op != UNPACK && !first_group) it->op = PACK;
}

/* Where the ways from each branch come together: its nearest postdominator. */
static void find_meetings(Program *p) {
    int n = p->length, blocks = 0;
    int *block_of = malloc((n + 1) * sizeof(int)), *first = malloc((n + 2) * sizeof(int));
    char *leads = calloc(n + 1, 1);
    leads[0] = 1;
    for (int i = 0; i < n; i++) {
        if (p->code[i].op == BRA) {
            leads[p->code[i].target] = 1;
            leads[i + 1] = 1;
        }
        if (p->code[i].op == RET) leads[i + 1] = 1;
    }
    for (int i = 0; i < n; i++) {
        if (leads[i]) first[blocks++] = i;
        block_of[i] = blocks - 1;
    }
    first[blocks] = n;
    int end = blocks, words = (blocks + 1 + 63) / 64;
    Word *after = malloc((size_t)(blocks + 1) * words * sizeof(Word));
    memset(after, 0xff, (size_t)(blocks + 1) * words * sizeof(Word));
    memset(after + (size_t)end * words, 0, words * sizeof(Word));
    after[(size_t)end * words + end / 64] |= (Word)1 << end % 64;
    int (*next)[2] = malloc((blocks + 1) * sizeof *next);
    for (int b = 0; b < blocks; b++) {
        const Instruction *last = &p->code[first[b + 1] - 1];
        int behind = first[b + 1] < n ? block_of[first[b + 1]] : end;
        next[b][0] = next[b][1] = behind;
        if (last->op == BRA) {
            next[b][0] = block_of[last->target];
            if (last->guard < 0) next[b][1] = next[b][0];
        } else if (last->op == RET) {
            next[b][0] = end;
            if (last->guard < 0) next[b][1] = end;
        }
    }
    for (int changed = 1; changed;) {
        changed = 0;
        for (int b = blocks - 1; b >= 0; b--)
            for (int i = 0; i < words; i++) {
                Word both = after[(size_t)next[b][0] * words + i] & after[(size_t)next[b][1] * words + i];
                if (b / 64 == i) both |= (Word)1 << b % 64;
                if (both != after[(size_t)b * words + i]) {
                    after[(size_t)b * words + i] = both;
                    changed = 1;
                }
            }
    }
    for (int b = 0; b < blocks; b++) {
        Instruction *last = &p->code[first[b + 1] - 1];
        if (last->op != BRA) continue;
        /* Of those that come after in any case, the one that has as many after it as this has, less one. */
        Word *mine = after + (size_t)b * words;
        int count = 0, meet = end;
        for (int i = 0; i < words; i++) count += __builtin_popcountll(mine[i]);
        for (int d = 0; d <= end; d++)
            if (d != b && mine[d / 64] >> d % 64 & 1) {
                int theirs = 0;
                for (int i = 0; i < words; i++) theirs += __builtin_popcountll(after[(size_t)d * words + i]);
                if (theirs == count - 1) meet = d;
            }
        last->meet = meet == end ? n : first[meet];
    }
    free(block_of);
    free(first);
    free(leads);
    free(after);
    free(next);
}

/* Of an entry, from its name to its last brace; variables are the module's. */
static Program *read_program(const char *ptx, const char *name) {
    Program *p = calloc(1, sizeof *p);
    banks_count = 0;
    char wanted[256];
    snprintf(wanted, sizeof wanted, ".entry %s", name);
    const char *entry = ptx;
    do entry = strstr(entry, wanted);
    while (entry && *(entry += strlen(wanted)) != '(' && *entry != '\n' && *entry != ' ');
    if (!entry) stop("no such entry", name);
    const char *body = strchr(entry, '{');
    /* Parameters. */
    for (const char *at = entry; (at = strstr(at, ".param")) && at < body; at += 6) {
        char line[512];
        size_t n = strcspn(at, ",\n)");
        snprintf(line, sizeof line, "%.*s", (int)n, at);
        char *last = strrchr(line, ' '), *bracket = strchr(line, '[');
        long size = 8, align = 8;
        if (strstr(line, ".b32") || strstr(line, ".u32")) size = align = 4;
        if (bracket) {
            size = strtol(bracket + 1, NULL, 0);
            *bracket = 0;
            last = strrchr(line, ' ');
            char *a = strstr(line, ".align ");
            align = a ? atol(a + 7) : 4;
        }
        p->param_bytes = (p->param_bytes + align - 1) / align * align;
        p->param_reg[p->params] = reg_of(p, last + 1);
        p->param_offset[p->params] = p->param_bytes;
        p->param_size[p->params++] = size;
        p->param_bytes += size;
    }
    /* Variables of the module before it, and of its own. */
    int depth = 0;
    const char *end = body;
    do {
        if (*end == '{') depth++;
        if (*end == '}') depth--;
        end++;
    } while (depth);
    for (const char *at = ptx; at < end && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : end) {
        while (*at == ' ' || *at == '\t') at++;
        char line[256];
        snprintf(line, sizeof line, "%.*s", (int)strcspn(at, "\n"), at);
        char *variable = line;
        int space = 0;
        if (strstr(line, ".reg") == line && at > body) {
            char kind[16], prefix[16];
            int count;
            if (sscanf(line, ".reg %15s %15[^<;]<%d>", kind, prefix, &count) == 3) {
                strcpy(banks[banks_count].prefix, prefix);
                banks[banks_count].first = p->registers;
                banks[banks_count++].count = count;
                p->registers += count;
            }
            continue;
        }
        if (strstr(line, ".param") || *line != '.') continue;
        if (strstr(line, ".shared "))
            space = 's';
        else if (strstr(line, ".local "))
            space = at > body ? 'l' : 0;
        else if (strstr(line, ".global ") || strstr(line, ".const "))
            space = 'g';
        if (!space) continue;
        char *bracket = strchr(line, '[');
        long size = bracket ? strtol(bracket + 1, NULL, 0) : 8;
        char symbol[128];
        if (bracket) *bracket = 0;
        char *last = strrchr(variable, ' '), *tab = strrchr(variable, '\t');
        if (tab > last) last = tab;
        snprintf(symbol, sizeof symbol, "%s", last + 1);
        p->variables = realloc(p->variables, (p->variables_count + 1) * sizeof *p->variables);
        Variable v = {reg_of(p, symbol), size, space, NULL};
        if (space == 'g') {
            v.bytes = calloc(1, size + 16);
            const char *values = strchr(at, '{'), *line_end = strchr(at, '\n');
            if (values && values < line_end)
                for (long i = 0; i < size; i++) {
                    v.bytes[i] = strtol(values + 1, (char **)&values, 0);
                    values += strspn(values, " ");
                    if (*values != ',') break;
                }
        }
        p->variables[p->variables_count++] = v;
    }
    /* Code. */
    typedef struct {
        char name[96];
        int at;
    } Label;
    Label *labels = NULL;
    int labels_count = 0, room = 0;
    char (*targets)[96] = NULL;
    for (const char *at = body + 1; at < end - 1;) {
        while (isspace((unsigned char)*at)) at++;
        if (at >= end - 1) break;
        if (at[0] == '/' && at[1] == '/') {
            at = strchr(at, '\n');
            continue;
        }
        size_t n = strcspn(at, ";:\n");
        if (*at == '$' && at[n] == ':') {
            labels = realloc(labels, (labels_count + 1) * sizeof *labels);
            snprintf(labels[labels_count].name, 96, "%.*s", (int)n, at);
            labels[labels_count++].at = p->length;
            at += n + 1;
            continue;
        }
        if (*at == '{' || *at == '}') {
            at++;
            continue;
        }
        n = strcspn(at, ";");
        if (*at != '.') {
            char text[1024];
            int k = 0;
            for (size_t i = 0; i < n && k < 1023; i++) text[k++] = at[i] == '\n' ? ' ' : at[i];
            text[k] = 0;
            if (p->length == room) {
                room = room ? 2 * room : 1024;
                p->code = realloc(p->code, room * sizeof *p->code);
                targets = realloc(targets, room * 96);
            }
            read_instruction(p, text, &p->code[p->length], targets[p->length]);
            p->length++;
        }
        at += n + 1;
    }
    for (int i = 0; i < p->length; i++)
        if (targets[i][0]) {
            for (int k = 0; k < labels_count; k++)
                if (!strcmp(labels[k].name, targets[i])) p->code[i].target = labels[k].at;
            if (p->code[i].target < 0) stop("no such label", targets[i]);
        }
    free(labels);
    free(targets);
    find_meetings(p);
    return p;
}

/* ---- Doing ---- */
static inline Word *at(Warp *w, const Operand *o) {
    return o->constant ? o->constant : w->regs + (size_t)o->reg * LANES;
}
#define EACH                                                                                                           \
    for (int l = 0; l < LANES; l++)                                                                                    \
        if (mask >> l & 1)

static double rounded_to(double x, int how) {
    switch (how) {
    case 'm': return floor(x);
    case 'p': return ceil(x);
    case 'z': return trunc(x);
    default: return nearbyint(x);
    }
}
static float fma_rounded(float a, float b, float c, int how) {
    if (how != 'm' && how != 'p' && how != 'z') return fmaf(a, b, c);
    double exact = (double)a * b + c;
    float f = (float)exact;
    if (how == 'm' && f > exact) f = nextafterf(f, -INFINITY);
    if (how == 'p' && f < exact) f = nextafterf(f, INFINITY);
    return f;
}

static Word arithmetic(const Instruction *it, Word a, Word b) {
    int bits = bits_of(it->type);
    switch (it->type) {
    case F32: {
        float x = f32(a), y = f32(b);
        switch (it->op) {
        case ADD: return w32(x + y);
        case SUB: return w32(x - y);
        case MUL: return w32(x * y);
        case DIV: return w32(x / y);
        case MIN: return w32(it->nan && (x != x || y != y) ? NAN : fminf(x, y));
        case MAX: return w32(it->nan && (x != x || y != y) ? NAN : fmaxf(x, y));
        case COPYSIGN: return w32(copysignf(y, x));
        default: break;
        }
        break;
    }
    case F64: {
        double x = f64(a), y = f64(b);
        switch (it->op) {
        case ADD: return w64(x + y);
        case SUB: return w64(x - y);
        case MUL: return w64(x * y);
        case DIV: return w64(x / y);
        default: break;
        }
        break;
    }
    case BF16:
    case F16:
    case BF16X2:
    case F16X2: {
        Word r = 0;
        for (int i = 0; i < (it->type == BF16X2 || it->type == F16X2 ? 2 : 1); i++) {
            float x = half_of(it->type, a >> 16 * i), y = half_of(it->type, b >> 16 * i), z = 0;
            switch (it->op) {
            case ADD: z = x + y; break;
            case SUB: z = x - y; break;
            case MUL: z = x * y; break;
            case MIN: z = fminf(x, y); break;
            case MAX: z = fmaxf(x, y); break;
            default: stop("arithmetic", it->text);
            }
            r |= to_half(it->type, z) << 16 * i;
        }
        return r;
    }
    default: break;
    }
    int64_t x = extend(a, bits), y = extend(b, bits);
    Word u = cut(a, bits), v = cut(b, bits);
    switch (it->op) {
    case ADD: return cut(a + b, bits);
    case SUB: return cut(a - b, bits);
    case MUL: return cut(a * b, bits);
    case MULHI:
        if (bits == 64)
            return is_signed(it->type) ? (Word)(((__int128)x * y) >> 64) : (Word)(((unsigned __int128)u * v) >> 64);
        return is_signed(it->type) ? cut((Word)((x * y) >> bits), bits) : cut((u * v) >> bits, bits);
    case MULWIDE: return cut(is_signed(it->type) ? (Word)(x * y) : u * v, 2 * bits);
    case DIV: return v == 0 ? cut(~(Word)0, bits) : is_signed(it->type) ? cut((Word)(x / y), bits) : u / v;
    case REM: return v == 0 ? u : is_signed(it->type) ? cut((Word)(x % y), bits) : u % v;
    case MIN: return is_signed(it->type) ? cut((Word)(x < y ? x : y), bits) : u < v ? u : v;
    case MAX: return is_signed(it->type) ? cut((Word)(x > y ? x : y), bits) : u > v ? u : v;
    default: break;
    }
    stop("arithmetic", it->text);
    return 0;
}

static int compared(const Instruction *it, Word a, Word b) {
    if (it->type == F32 || it->type == F64 || it->type == BF16 || it->type == F16) {
        double x = it->type == F32 ? f32(a) : it->type == F64 ? f64(a) : half_of(it->type, a);
        double y = it->type == F32 ? f32(b) : it->type == F64 ? f64(b) : half_of(it->type, b);
        int unordered = x != x || y != y;
        switch (it->compare) {
        case 0: return x == y;
        case 1: return !unordered && x != y;
        case 2: return x < y;
        case 3: return x <= y;
        case 4: return x > y;
        case 5: return x >= y;
        case 10: return unordered || x == y;
        case 11: return unordered || x != y;
        case 12: return unordered || x < y;
        case 13: return unordered || x <= y;
        case 14: return unordered || x > y;
        case 15: return unordered || x >= y;
        case 16: return !unordered;
        case 17: return unordered;
        }
    }
    int bits = bits_of(it->type);
    int64_t x = extend(a, bits), y = extend(b, bits);
    Word u = cut(a, bits), v = cut(b, bits);
    int s = is_signed(it->type);
    switch (it->compare) {
    case 0: return u == v;
    case 1: return u != v;
    case 2:
    case 6: return s ? x < y : u < v;
    case 3:
    case 7: return s ? x <= y : u <= v;
    case 4:
    case 8: return s ? x > y : u > v;
    case 5:
    case 9: return s ? x >= y : u >= v;
    }
    stop("comparison", it->text);
    return 0;
}

static Word converted(const Instruction *it, Word a, Word b) {
    enum Type to = it->type, from = it->from;
    if (to == BF16X2 || to == F16X2) return to_half(to, f32(a)) << 16 | to_half(to, f32(b));
    if (to == TF32) return to_tf32(f32(a));
    int floats_from = from == F32 || from == F64 || from == BF16 || from == F16;
    if (floats_from) {
        double x = from == F32 ? f32(a) : from == F64 ? f64(a) : half_of(from, a);
        if (to == F32 || to == F64 || to == BF16 || to == F16) {
            if (it->rounds && from == to) x = rounded_to(x, it->rounds);
            if (it->saturate) x = x != x ? 0 : x < 0 ? 0 : x > 1 ? 1 : x;
            return to == F32 ? w32((float)x) : to == F64 ? w64(x) : to_half(to, (float)x);
        }
        x = x != x ? 0 : rounded_to(x, it->rounds);
        int bits = bits_of(to);
        if (is_signed(to)) {
            double most = ldexp(1, bits - 1);
            int64_t v = x >= most   ? (int64_t)(((Word)1 << (bits - 1)) - 1)
                        : x < -most ? (int64_t)((Word)-1 << (bits - 1))
                                    : (int64_t)x;
            return cut((Word)v, bits);
        }
        double most = ldexp(1, bits);
        return x >= most ? cut(~(Word)0, bits) : x < 0 ? 0 : (Word)x;
    }
    int bits = bits_of(from);
    int64_t x = is_signed(from) ? extend(a, bits) : (int64_t)cut(a, bits);
    if (to == F32) return w32(is_signed(from) ? (float)x : (float)(Word)x);
    if (to == F64) return w64(is_signed(from) ? (double)x : (double)(Word)x);
    if (to == BF16 || to == F16) return to_half(to, is_signed(from) ? (float)x : (float)(Word)x);
    return cut((Word)x, bits_of(to));
}

static Word load(const void *from, int bytes) {
    Word w = 0;
    memcpy(&w, from, bytes);
    return w;
}

static void whole(uint32_t mask, uint32_t alive, const Instruction *it) {
    if (mask != 0xffffffffu || alive != mask) stop("a part of a warp", it->text);
}

/* The two numbers of a register, or the one of tf32. */
static void apart(enum Type t, Word w, float *x) {
    if (t == TF32)
        x[0] = f32(w & 0xffffe000u);
    else {
        x[0] = half_of(t, w);
        x[1] = half_of(t, w >> 16);
    }
}

static void mma(Warp *w, const Instruction *it) {
    float a[16][16], b[16][8];
    enum Type t = it->from == B32 ? BF16 : it->from;
    int k = it->k, tf = t == TF32;
    for (int l = 0; l < LANES; l++) {
        int g = l / 4, c = l % 4;
        float x[2];
        if (tf) {
            for (int i = 0; i < (k == 8 ? 4 : 2); i++) {
                apart(t, at(w, &it->operands[4 + i])[l], x);
                a[g + i % 2 * 8][c + i / 2 * 4] = x[0];
            }
            for (int i = 0; i < (k == 8 ? 2 : 1); i++) {
                apart(t, at(w, &it->operands[(k == 8 ? 8 : 6) + i])[l], x);
                b[c + i * 4][g] = x[0];
            }
        } else {
            int regs = k == 16 ? 4 : 2;
            for (int i = 0; i < regs; i++) {
                apart(t, at(w, &it->operands[4 + i])[l], x);
                a[g + i % 2 * 8][2 * c + i / 2 * 8] = x[0];
                a[g + i % 2 * 8][2 * c + 1 + i / 2 * 8] = x[1];
            }
            for (int i = 0; i < regs / 2; i++) {
                apart(t, at(w, &it->operands[4 + regs + i])[l], x);
                b[2 * c + i * 8][g] = x[0];
                b[2 * c + 1 + i * 8][g] = x[1];
            }
        }
    }
    int first = it->count - 4;
    float d[LANES][4];
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++) {
            int row = l / 4 + i / 2 * 8, column = l % 4 * 2 + i % 2;
            float sum = f32(at(w, &it->operands[first + i])[l]);
            for (int j = 0; j < k; j++) sum += a[row][j] * b[j][column];
            d[l][i] = sum;
        }
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < 4; i++) at(w, &it->operands[i])[l] = w32(d[l][i]);
}

static void move_matrices(Warp *w, const Instruction *it, int stores) {
    int n = it->pieces;
    const Operand *address = stores ? &it->operands[0] : &it->operands[n];
    const Operand *regs = stores ? &it->operands[1] : &it->operands[0];
    Word *base = at(w, address);
    Word addresses[LANES];
    memcpy(addresses, base, sizeof addresses);
    for (int i = 0; i < n; i++)
        for (int l = 0; l < LANES; l++) {
            Word found = stores ? at(w, &regs[i])[l] : 0;
            for (int half = 0; half < 2; half++) {
                int row = it->transposed ? l % 4 * 2 + half : l / 4, column = it->transposed ? l / 4 : l % 4 * 2 + half;
                uint16_t *place = (uint16_t *)(addresses[8 * i + row] + address->offset) + column;
                if (stores)
                    *place = (uint16_t)(found >> 16 * half);
                else
                    found |= (Word)*place << 16 * half;
            }
            if (!stores) at(w, &regs[i])[l] = found;
        }
}

/* A fragment of `wmma` and a matrix in memory. Its numbers are in an order of our own: the matrix is parted among the
 * threads, row by row. */
static void wmma_move(Warp *w, const Instruction *it, int stores) {
    int rows = it->matrix == 'b' && !stores ? it->k : it->m, columns = !stores && it->matrix == 'a' ? it->k : it->n;
    int regs = it->count - 1;
    int per = rows * columns / LANES;
    int half = it->type != F32 && it->type != TF32;
    int needed = half ? per / 2 : per;
    /* Behind the registers and the address may be a stride. In f16 a fragment has each number twice. */
    int strided = it->type == F16 && !stores ? regs % 2 == 1 : regs > needed;
    if (strided) regs--;
    const Operand *address = stores ? &it->operands[0] : &it->operands[regs];
    const Operand *numbers = stores ? &it->operands[1] : &it->operands[0];
    long stride = strided ? (long)(uint32_t)at(w, &it->operands[it->count - 1])[0] : (it->by_column ? rows : columns);
    char *base = (char *)(at(w, address)[0] + address->offset);
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < per; i++) {
            int e = l * per + i, row = e / columns, column = e % columns;
            long place = it->by_column ? column * stride + row : row * stride + column;
            if (half) {
                Word *reg = &at(w, &numbers[i / 2])[l];
                uint16_t *p = (uint16_t *)base + place;
                if (stores)
                    *p = (uint16_t)(*reg >> 16 * (i % 2));
                else
                    *reg = i % 2 ? (*reg & 0xffff) | (Word)*p << 16 : *p;
            } else {
                Word *reg = &at(w, &numbers[i])[l];
                uint32_t *p = (uint32_t *)base + place;
                if (stores)
                    *p = (uint32_t)*reg;
                else
                    *reg = *p;
            }
        }
}

static void wmma(Warp *w, const Instruction *it) {
    int m = it->m, n = it->n, k = it->k;
    static _Thread_local float a[32 * 16], b[32 * 16];
    int tf = it->from == TF32, sums = m * n / LANES;
    int left = tf                ? m * k / LANES
               : it->from == F16 ? 8
                                 : m * k / LANES / 2,
        right = tf                ? k * n / LANES
                : it->from == F16 ? 8
                                  : k * n / LANES / 2;
    const Operand *as = &it->operands[sums], *bs = as + left, *cs = bs + right;
    int per_a = m * k / LANES, per_b = k * n / LANES;
    for (int l = 0; l < LANES; l++) {
        float x[2];
        for (int i = 0; i < per_a; i++) {
            apart(it->from, at(w, &as[tf ? i : i / 2])[l], x);
            a[l * per_a + i] = x[tf ? 0 : i % 2];
        }
        for (int i = 0; i < per_b; i++) {
            apart(it->from, at(w, &bs[tf ? i : i / 2])[l], x);
            b[l * per_b + i] = x[tf ? 0 : i % 2];
        }
    }
    for (int l = 0; l < LANES; l++)
        for (int i = 0; i < sums; i++) {
            int e = l * sums + i, row = e / n, column = e % n;
            float sum = f32(at(w, &cs[i])[l]);
            for (int j = 0; j < k; j++) sum += a[row * k + j] * b[j * n + column];
            at(w, &it->operands[i])[l] = w32(sum);
        }
}

/* Does one instruction for the threads of `mask`. */
static void perform(Warp *w, const Instruction *it, uint32_t mask) {
    const Operand *o = it->operands;
    Word *d = it->count && it->op != ST ? at(w, &o[0]) : NULL, *a = it->count > 1 ? at(w, &o[1]) : NULL,
         *b = it->count > 2 ? at(w, &o[2]) : NULL, *c = it->count > 3 ? at(w, &o[3]) : NULL;
    int bits = bits_of(it->type);
    switch (it->op) {
    case NOP: break;
    case MOV: EACH d[l] = cut(a[l], bits == 1 ? 1 : bits); break;
    case PACK: {
        int n = it->count - 1, part = bits / n;
        EACH {
            Word r = 0;
            for (int i = 0; i < n; i++) r |= cut(at(w, &o[1 + i])[l], part) << part * i;
            d[l] = r;
        }
        break;
    }
    case UNPACK: {
        int n = it->count - 1, part = bits / n;
        Word *from = at(w, &o[n]);
        EACH {
            Word v = from[l];
            for (int i = 0; i < n; i++)
                if (o[i].reg >= 0) at(w, &o[i])[l] = cut(v >> part * i, part);
        }
        break;
    }
    case ADD:
    case SUB:
    case MUL:
    case MULHI:
    case MULWIDE:
    case DIV:
    case REM:
    case MIN:
    case MAX:
    case COPYSIGN:
        if (it->op == ADD && it->type == U32 && it->carry_out) {
            EACH {
                Word s = cut(a[l], 32) + cut(b[l], 32);
                w->carry[l] = s >> 32;
                d[l] = cut(s, 32);
            }
            break;
        }
        if (it->op == ADD && bits == 32 && it->type != F32 && it->type < F16) {
            EACH d[l] = (uint32_t)(a[l] + b[l]);
            break;
        }
        if (it->op == ADD && bits == 64 && it->type < F16) {
            EACH d[l] = a[l] + b[l];
            break;
        }
        if (it->op == ADD && it->type == F32) {
            EACH d[l] = w32(f32(a[l]) + f32(b[l]));
            break;
        }
        if (it->op == MUL && it->type == F32) {
            EACH d[l] = w32(f32(a[l]) * f32(b[l]));
            break;
        }
        EACH d[l] = arithmetic(it, a[l], b[l]);
        break;
    case MAD:
        EACH {
            Word s = cut(a[l] * b[l], bits) + cut(c[l], bits) + (it->carry_in ? w->carry[l] : 0);
            if (it->carry_out) w->carry[l] = bits == 32 ? s >> 32 : 0;
            d[l] = cut(s, bits);
        }
        break;
    case MADHI:
        EACH {
            Instruction m = *it;
            m.op = MULHI;
            Word s = arithmetic(&m, a[l], b[l]) + cut(c[l], bits) + (it->carry_in ? w->carry[l] : 0);
            if (it->carry_out) w->carry[l] = bits == 32 ? s >> 32 : 0;
            d[l] = cut(s, bits);
        }
        break;
    case MADWIDE:
        EACH {
            Instruction m = *it;
            m.op = MULWIDE;
            d[l] = cut(arithmetic(&m, a[l], b[l]) + c[l], 2 * bits);
        }
        break;
    case FMA:
        if (it->type == F32) {
            EACH {
                float r = fma_rounded(f32(a[l]), f32(b[l]), f32(c[l]), it->rounds);
                if (it->saturate) r = r < 0 || r != r ? 0 : r > 1 ? 1 : r;
                d[l] = w32(r);
            }
        } else if (it->type == F64) {
            EACH d[l] = w64(fma(f64(a[l]), f64(b[l]), f64(c[l])));
        } else
            EACH {
                Word r = 0;
                for (int i = 0; i < (bits == 32 ? 2 : 1); i++)
                    r |= to_half(it->type, fmaf(half_of(it->type, a[l] >> 16 * i), half_of(it->type, b[l] >> 16 * i),
                                                half_of(it->type, c[l] >> 16 * i)))
                         << 16 * i;
                d[l] = r;
            }
        break;
    case NEG:
        EACH d[l] = it->type == F32                           ? a[l] ^ 0x80000000u
                    : it->type == F64                         ? a[l] ^ (Word)1 << 63
                    : it->type == BF16 || it->type == F16     ? a[l] ^ 0x8000
                    : it->type == BF16X2 || it->type == F16X2 ? a[l] ^ 0x80008000u
                                                              : cut(-a[l], bits);
        break;
    case ABS:
        EACH d[l] = it->type == F32                           ? a[l] & 0x7fffffffu
                    : it->type == BF16 || it->type == F16     ? a[l] & 0x7fff
                    : it->type == BF16X2 || it->type == F16X2 ? a[l] & 0x7fff7fffu
                    : it->type == F64                         ? a[l] & ~((Word)1 << 63)
                                                              : cut((Word)llabs(extend(a[l], bits)), bits);
        break;
    case NOT: EACH d[l] = cut(~a[l], bits); break;
    case AND: EACH d[l] = a[l] & b[l] & cut(~(Word)0, bits); break;
    case OR: EACH d[l] = cut(a[l] | b[l], bits); break;
    case XOR: EACH d[l] = cut(a[l] ^ b[l], bits); break;
    case SHL:
        EACH {
            uint32_t n = (uint32_t)b[l];
            d[l] = n >= (uint32_t)bits ? 0 : cut(a[l] << n, bits);
        }
        break;
    case SHR:
        EACH {
            uint32_t n = (uint32_t)b[l];
            if (is_signed(it->type))
                d[l] = cut((Word)(extend(a[l], bits) >> (n >= (uint32_t)bits ? bits - 1 : (int)n)), bits);
            else
                d[l] = n >= (uint32_t)bits ? 0 : cut(a[l], bits) >> n;
        }
        break;
    case BFE:
        EACH {
            uint32_t from = b[l] & 255, n = c[l] & 255;
            d[l] = from >= 64 ? 0 : cut(a[l], bits) >> from & (n >= 64 ? ~(Word)0 : ((Word)1 << n) - 1);
            if (is_signed(it->type)) stop("signed bfe", it->text);
        }
        break;
    case CLZ:
        EACH {
            uint32_t v = (uint32_t)a[l];
            d[l] = v ? __builtin_clz(v) : 32;
        }
        break;
    case POPC: EACH d[l] = __builtin_popcountll(cut(a[l], bits)); break;
    case PRMT:
        EACH {
            Word both = (a[l] & 0xffffffffu) | b[l] << 32, r = 0;
            for (int i = 0; i < 4; i++) {
                int s = c[l] >> 4 * i & 15;
                Word byte = both >> 8 * (s & 7) & 255;
                if (s & 8) byte = byte & 128 ? 255 : 0;
                r |= byte << 8 * i;
            }
            d[l] = r;
        }
        break;
    case SHF:
        EACH {
            Word both = (a[l] & 0xffffffffu) | b[l] << 32;
            int n = c[l] & 31;
            d[l] = it->matrix == 'l' ? (uint32_t)(both << n >> 32) : (uint32_t)(both >> n);
        }
        break;
    case SELP: EACH d[l] = c[l] & 1 ? a[l] : b[l]; break;
    case SETP: EACH d[l] = compared(it, a[l], b[l]); break;
    case CVT: EACH d[l] = converted(it, a[l], b ? b[l] : 0); break;
    case LD: {
        int n = it->vector ? it->vector : 1, bytes = bits / 8;
        Word *from = at(w, &o[n]);
        long offset = o[n].offset;
        Word addresses[LANES];
        memcpy(addresses, from, sizeof addresses);
        for (int i = 0; i < n; i++) {
            Word *to = at(w, &o[i]);
            EACH {
                Word v = load((char *)addresses[l] + offset + i * bytes, bytes);
                to[l] = is_signed(it->type) ? (Word)extend(v, bits) : v;
            }
        }
        break;
    }
    case ST: {
        int n = it->vector ? it->vector : 1, bytes = bits / 8;
        Word *to = at(w, &o[0]);
        for (int i = 0; i < n; i++) {
            Word *v = at(w, &o[1 + i]);
            EACH memcpy((char *)to[l] + o[0].offset + i * bytes, &v[l], bytes);
        }
        break;
    }
    case ATOM: {
        static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
        pthread_mutex_lock(&one);
        EACH {
            char *place = (char *)a[l] + o[1].offset;
            Word old = load(place, bits / 8), now;
            if (!strstr(it->text, ".add")) stop("an atomic operation", it->text);
            Instruction add = *it;
            add.op = ADD;
            add.carry_out = 0;
            now = arithmetic(&add, old, b[l]);
            memcpy(place, &now, bits / 8);
            d[l] = old;
        }
        pthread_mutex_unlock(&one);
        break;
    }
    case SHFL: {
        Word values[LANES];
        int with = it->negated;
        const Operand *v = &o[1 + with], *by = &o[2 + with];
        memcpy(values, at(w, v), sizeof values);
        EACH {
            int n = (int)at(w, by)[l], from = it->matrix == 'b'   ? l ^ n
                                              : it->matrix == 'i' ? (n & 31)
                                              : it->matrix == 'd' ? l + n
                                                                  : l - n;
            int there = from >= 0 && from < LANES;
            if (!there) from = l;
            d[l] = values[from];
            if (with) a[l] = there;
        }
        break;
    }
    case ACTIVE: EACH d[l] = mask; break;
    case EX2: EACH d[l] = w32(exp2f(f32(a[l]))); break;
    case LG2: EACH d[l] = w32(log2f(f32(a[l]))); break;
    case RCP: EACH d[l] = it->type == F64 ? w64(1 / f64(a[l])) : w32(1 / f32(a[l])); break;
    case SQRT: EACH d[l] = it->type == F64 ? w64(sqrt(f64(a[l]))) : w32(sqrtf(f32(a[l]))); break;
    case RSQRT: EACH d[l] = w32(1 / sqrtf(f32(a[l]))); break;
    case SIN: EACH d[l] = w32(sinf(f32(a[l]))); break;
    case COS: EACH d[l] = w32(cosf(f32(a[l]))); break;
    case TANH: EACH d[l] = w32(tanhf(f32(a[l]))); break;
    case MMA:
        whole(mask, w->alive, it);
        mma(w, it);
        break;
    case LDMATRIX:
        whole(mask, w->alive, it);
        move_matrices(w, it, 0);
        break;
    case STMATRIX:
        whole(mask, w->alive, it);
        move_matrices(w, it, 1);
        break;
    case WLOAD:
        whole(mask, w->alive, it);
        wmma_move(w, it, 0);
        break;
    case WSTORE:
        whole(mask, w->alive, it);
        wmma_move(w, it, 1);
        break;
    case WMMA:
        whole(mask, w->alive, it);
        wmma(w, it);
        break;
    default: stop("an instruction", it->text);
    }
}

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
