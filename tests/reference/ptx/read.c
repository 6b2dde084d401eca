/* PTX to a program. */

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
            if (!strcmp(parts[i], "bfly")) it->kind = 'b';
            if (!strcmp(parts[i], "idx")) it->kind = 'i';
            if (!strcmp(parts[i], "up")) it->kind = 'u';
            if (!strcmp(parts[i], "down")) it->kind = 'd';
        }
        if (it->op == SHF && !strcmp(parts[i], "l")) it->kind = 'l';
    }
    if (!strcmp(parts[0], "wmma")) {
        found = 1;
        if (!strcmp(parts[1], "load")) {
            it->op = WLOAD;
            it->kind = parts[2][0];
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
    int groups = 0, first_group = 0;
    n = 0;
    for (;; s++) {
        if (*s == '{') {
            if (it->count == 0) first_group = 1;
            groups++;
            continue;
        }
        if (*s == '|') {
            word[n] = 0;
            it->operands[it->count++] = operand(p, word);
            it->with_predicate = 1;
            n = 0;
            continue;
        }
        if (*s == ',' || *s == '}' || *s == 0) {
            word[n] = 0;
            if (n) it->operands[it->count++] = operand(p, word);
            n = 0;
            if (*s == '}' && it->op == MOV && first_group && groups == 1 && !it->vector) {
                it->op = UNPACK;
                it->vector = it->count;
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
