//! Which bytes may stand where.
//!
//! Knows classes of single bytes only; what they form together is the business of the other files.

/// RFC 9110 §5.6.2 `tchar`: methods and names.
pub(super) const TOKEN: u8 = 1;
/// RFC 9110 §5.5: HTAB, SP, VCHAR and `obs-text`.
pub(super) const VALUE: u8 = 2;
/// RFC 3986 §3.3: what paths are made of, with the `%` of an escape, and `[` `]`, which browsers leave
/// raw there and authorities hold around IP literals.
pub(super) const PATH: u8 = 4;
/// RFC 3986 §3.4, and what browsers leave raw in queries besides: `[` `]` `{` `}` `|` `^` `` ` `` `\`.
///
/// Not a backslash in a path, which is a slash to some programs; and neither `"` nor `<` nor `>`
/// anywhere, which browsers escape.
pub(super) const QUERY: u8 = 8;
/// What a host name may hold, see `check_host`.
pub(super) const HOST: u8 = 16;

const CLASSES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = classes_of(byte as u8);
        byte += 1;
    }
    table
};

const fn classes_of(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => TOKEN | VALUE | PATH | QUERY | HOST,
        b'-' | b'.' | b'_' | b'~' => TOKEN | VALUE | PATH | QUERY | HOST,
        b'!' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' => TOKEN | VALUE | PATH | QUERY,
        b'#' => TOKEN | VALUE,
        b'^' | b'`' | b'|' => TOKEN | VALUE | QUERY,
        b'(' | b')' | b',' | b';' | b'=' | b':' | b'@' | b'/' | b'[' | b']' => VALUE | PATH | QUERY,
        b'?' | b'{' | b'}' | b'\\' => VALUE | QUERY,
        b'\t' | b' '..=b'~' | 0x80..=0xff => VALUE,
        _ => 0,
    }
}

#[inline]
pub(super) const fn is(byte: u8, class: u8) -> bool {
    CLASSES[byte as usize] & class != 0
}

/// Where the run of `class` that begins at `from` ends: the first byte outside it, or the end.
#[inline]
pub(super) fn skip(bytes: &[u8], from: usize, class: u8) -> usize {
    let run = bytes.get(from..).unwrap_or_default();
    from + run.iter().position(|byte| !is(*byte, class)).unwrap_or(run.len())
}

/// `skip` for values, eight bytes at a time: cookies and agents are most of a head.
#[inline]
pub(super) fn skip_value(bytes: &[u8], from: usize) -> usize {
    const ONES: u64 = u64::MAX / 255;
    let (words, _) = bytes.get(from..).unwrap_or_default().as_chunks::<8>();
    let plain = words.iter().take_while(|word| {
        let word = u64::from_ne_bytes(**word);
        let delete = word ^ (ONES * 0x7f);
        // High bit set where a byte is below SP or equals DEL. A tab, and now and then a byte next
        // to one that is set, raise it too; from such a word on the table decides.
        let suspects = (word.wrapping_sub(ONES * 0x20) & !word) | (delete.wrapping_sub(ONES) & !delete);
        suspects & (ONES * 0x80) == 0
    });
    skip(bytes, from + 8 * plain.count(), VALUE)
}

/// `bytes` without the SP and HTAB around it (RFC 9110 §5.6.3 `OWS`).
#[inline]
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let mut rest = bytes;
    while let [b' ' | b'\t', inner @ ..] | [inner @ .., b' ' | b'\t'] = rest {
        rest = inner;
    }
    rest
}

/// Whether this can be a method or a field's name.
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is(*byte, TOKEN))
}

/// Whether this can be a field's value: no control but HTAB, and no white space around it.
pub fn is_field_value(bytes: &[u8]) -> bool {
    skip_value(bytes, 0) == bytes.len() && trim(bytes).len() == bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_ends_where_its_class_does_wherever_the_byte_stands() {
        for byte in 0..=255u8 {
            for place in 0..24 {
                let mut bytes = vec![b'a'; 24];
                bytes[place] = byte;
                bytes[23 - place] = if place % 2 == 0 { b'\t' } else { 0xff };
                bytes[place] = byte;
                for from in 0..24 {
                    assert_eq!(skip_value(&bytes, from), skip(&bytes, from, VALUE), "{byte:#x} at {place} from {from}");
                }
            }
        }
    }

    #[test]
    fn classes_hold_what_the_grammars_list() {
        check(TOKEN, b"!#$%&'*+-.^_`|~09azAZ", b" \t\r\n\0\x7f:()<>@,;\\\"/[]?={}\x80\xff");
        check(VALUE, b"\t !~\x80\xff\"\\", b"\0\r\n\x1f\x7f\x0b");
        check(PATH, b"/:@-._~!$&'()*+,;=%aZ9[]", b"?#|^\"{}`<>\\ \t\0\x7f\x80\xff");
        check(QUERY, b"/?:@-._~!$&'()*+,;=%aZ9[]{}|^`\\", b"#\"<> \t\0\x7f\x80\xff");
        check(HOST, b"aZ9-._~", b"%!$&'()*+,;=@:/[] \\");
    }

    fn check(class: u8, inside: &[u8], outside: &[u8]) {
        for byte in inside {
            assert!(is(*byte, class), "{}", byte.escape_ascii());
        }
        for byte in outside {
            assert!(!is(*byte, class), "{}", byte.escape_ascii());
        }
    }

    #[test]
    fn white_space_around_a_value_is_no_part_of_it() {
        for (given, left) in [("", ""), (" \t ", ""), (" a b\t", "a b"), ("a", "a")] {
            assert_eq!(trim(given.as_bytes()), left.as_bytes());
        }
        assert!(is_field_value(b"a b") && is_field_value(b"") && !is_field_value(b" a") && !is_field_value(b"a\r\nb"));
        assert!(is_token(b"a-b") && !is_token(b"") && !is_token(b"a b"));
    }
}
