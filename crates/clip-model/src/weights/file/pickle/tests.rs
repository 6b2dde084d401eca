use super::{machine::integer, *};

fn refused(bytes: &[u8]) -> String {
    match Pickle::parse(bytes).unwrap_err() {
        Refusal::Forbidden(name) => format!("forbidden {name}"),
        Refusal::Malformed(reason) => reason,
    }
}

#[test]
fn what_python_would_run_is_refused_by_name() {
    // pickle.dumps of an object whose __reduce__ returns (os.system, ("true",)), protocols 2 and 4.
    let old = b"\x80\x02cposix\nsystem\nq\x00X\x04\x00\x00\x00trueq\x01\x85q\x02Rq\x03.";
    assert_eq!(refused(old), "forbidden posix.system");
    let new = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x04true\x94\x85\x94R\x94.";
    assert_eq!(refused(new), "forbidden posix.system");
    assert_eq!(refused(b"\x80\x02ctorch\nload\n."), "forbidden torch.load");
    assert_eq!(
        refused(b"\x80\x02c__torch__x\nF\n."),
        "forbidden __torch__x.F"
    );
}

#[test]
fn lengths_are_checked_before_memory_is_taken() {
    for bytes in [
        &b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fab."[..],
        b"\x80\x02X\xff\xff\xff\xffab.",
        b"\x80\x02B\xff\xff\xff\xffab.",
        b"\x80\x02\x8a\xffab.",
        b"\x80\x02cposix",
        b"\x80\x02",
        b"",
    ] {
        assert!(refused(bytes).contains("it ends"), "{bytes:?}");
    }
}

#[test]
fn what_is_not_well_formed_is_refused() {
    for (bytes, reason) in [
        (&b"\x80\x02."[..], "more than there is"),
        (b"\x80\x02(0.", "more than there is"),
        (b"\x80\x02t.", "a mark that is not there"),
        (b"\x80\x02h\x07.", "recalls 7"),
        (b"\x80\x02K\x01K\x02R.", "no function"),
        (b"\x80\x02K\x01)\x81.", "no class"),
        (b"\x80\x02K\x01}b.", "the state of something"),
        (b"\x80\x02}(K\x01u.", "a key without a value"),
        (b"\x80\x02K\x01K\x02a.", "no list"),
        (b"\x80\x02i.", "operation 0x69 at byte 2"),
        (b"\x80\x01.", "protocol 1"),
    ] {
        assert!(refused(bytes).contains(reason), "{}", refused(bytes));
    }
}

/// Lists in lists to any depth, one that holds itself, and values that share their parts again and again.
#[test]
fn deep_shared_and_cyclic_values_cost_their_length() {
    let deep: Vec<u8> = [b"\x80\x02N".to_vec(), vec![0x85; 1_000_000], b".".to_vec()].concat();
    assert!(Pickle::parse(&deep).is_ok());
    assert!(Pickle::parse(b"\x80\x02]q\x00h\x00a.").is_ok());
    let doubled = b"h\x00h\x00\x86q\x00".repeat(100_000);
    let bomb = [&b"\x80\x02Nq\x00"[..], &doubled, b"."].concat();
    assert!(Pickle::parse(&bomb).is_ok());
}

#[test]
fn whole_numbers_have_signs() {
    for (bytes, expected) in [
        (&[][..], 0),
        (&[0xff], -1),
        (&[0xff, 0], 255),
        (&[0, 0, 0, 0, 1], 1 << 32),
    ] {
        assert!(matches!(integer(bytes), Value::Int(value) if value == expected));
    }
}
