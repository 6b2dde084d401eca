/* One instruction. */

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
            d[l] = it->kind == 'l' ? (uint32_t)(both << n >> 32) : (uint32_t)(both >> n);
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
        int with = it->with_predicate;
        const Operand *v = &o[1 + with], *by = &o[2 + with];
        memcpy(values, at(w, v), sizeof values);
        EACH {
            int n = (int)at(w, by)[l], from = it->kind == 'b'   ? l ^ n
                                              : it->kind == 'i' ? (n & 31)
                                              : it->kind == 'd' ? l + n
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
