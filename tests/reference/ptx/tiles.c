/* What the threads of a warp do together: products of tiles, and tiles to and from memory. */

static inline Word *at(Warp *w, const Operand *o) {
    return o->constant ? o->constant : w->regs + (size_t)o->reg * LANES;
}
#define EACH                                                                                                           \
    for (int l = 0; l < LANES; l++)                                                                                    \
        if (mask >> l & 1)

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
    int rows = it->kind == 'b' && !stores ? it->k : it->m, columns = !stores && it->kind == 'a' ? it->k : it->n;
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
