/* Numbers of all types, which registers hold as bits; and what is computed of one or two of them. */

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
