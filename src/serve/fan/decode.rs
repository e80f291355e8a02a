//! Undoes the compression of a leaf's answer, within bounds.
//!
//! A bomb is refused when it is larger than the bound, and not when memory is.

use std::io::Read;

/// Why an answer cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecodable {
    TooLarge,
    Broken,
    /// A coding that nobody asked for.
    Unknown,
}

/// What `Content-Encoding` says of it undone: of several codings, the last one first.
pub fn decode(codings: &str, body: Vec<u8>, most: usize) -> Result<Vec<u8>, Undecodable> {
    let mut body = body;
    for coding in codings.rsplit(',').map(str::trim).filter(|coding| !coding.is_empty()) {
        body = match coding.to_ascii_lowercase().as_str() {
            "identity" => body,
            "gzip" | "x-gzip" => read(flate2::read::MultiGzDecoder::new(body.as_slice()), most)?,
            "deflate" => read(flate2::read::ZlibDecoder::new(body.as_slice()), most)?,
            "br" => read(brotli_decompressor::Decompressor::new(body.as_slice(), 4096), most)?,
            "zstd" => {
                let decoder = ruzstd::decoding::StreamingDecoder::new(body.as_slice()).map_err(|_| Undecodable::Broken)?;
                read(decoder, most)?
            }
            _ => return Err(Undecodable::Unknown),
        };
    }
    Ok(body)
}

fn read(decoder: impl Read, most: usize) -> Result<Vec<u8>, Undecodable> {
    let mut out = Vec::new();
    decoder.take(most as u64 + 1).read_to_end(&mut out).map_err(|_| Undecodable::Broken)?;
    if out.len() > most { Err(Undecodable::TooLarge) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(body: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn codings_are_undone_within_bounds() {
        assert_eq!(decode("gzip", gzip(b"hello"), 5), Ok(b"hello".to_vec()));
        assert_eq!(decode("gzip", gzip(b"hello!"), 5), Err(Undecodable::TooLarge));
        assert_eq!(decode("gzip, GZIP", gzip(&gzip(b"twice")), 100), Ok(b"twice".to_vec()));
        assert_eq!(decode("identity", b"x".to_vec(), 5), Ok(b"x".to_vec()));
        assert_eq!(decode("gzip", b"no gzip".to_vec(), 100), Err(Undecodable::Broken));
        assert_eq!(decode("compress", b"x".to_vec(), 100), Err(Undecodable::Unknown));
    }

    #[test]
    fn brotli_and_zstandard_are_read() {
        // `printf hello | brotli -c`, `printf hello | zstd -c --no-check`.
        assert_eq!(decode("br", vec![0x0b, 0x02, 0x80, b'h', b'e', b'l', b'l', b'o', 0x03], 100), Ok(b"hello".to_vec()));
        let zstd = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, 0x05, 0x29, 0x00, 0x00, b'h', b'e', b'l', b'l', b'o'];
        assert_eq!(decode("zstd", zstd, 100), Ok(b"hello".to_vec()));
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_large() {
        let bomb = gzip(&vec![0; 64 << 20]);
        assert!(bomb.len() < 1 << 17);
        assert_eq!(decode("gzip", bomb, 1 << 20), Err(Undecodable::TooLarge));
    }
}
