//! Hashes of keys that other programs have, under the names that twemproxy gives them.
//!
//! Bit by bit as they are there, with the traps: some names promise more than they keep, and some hashes depend on whether `char` is
//! signed. None of them is for anything else.

use md5::{Digest, Md5};

macro_rules! hashes {
    ($( $variant:ident = $word:literal ),* $(,)?) => {
        /// A hash of twemproxy's (`src/hashkit`, version 0.5).
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum KeyHash { $( $variant, )* }

        impl KeyHash {
            pub const NAMES: [&str; 12] = [$( $word ),*];
            pub const ALL: [Self; 12] = [$( Self::$variant ),*];

            pub fn parse(word: &str) -> Option<Self> {
                match word { $( $word => Some(Self::$variant), )* _ => None }
            }

            pub fn word(self) -> &'static str {
                match self { $( Self::$variant => $word, )* }
            }
        }
    };
}

hashes! {
    OneAtATime = "one_at_a_time",
    Md5 = "md5",
    Crc16 = "crc16",
    Crc32 = "crc32",
    Crc32a = "crc32a",
    Fnv164 = "fnv1_64",
    Fnv1a64 = "fnv1a_64",
    Fnv132 = "fnv1_32",
    Fnv1a32 = "fnv1a_32",
    Hsieh = "hsieh",
    Murmur = "murmur",
    Jenkins = "jenkins",
}

impl KeyHash {
    /// `signed_char`: bytes from 0x80 on count as negative where the original reads them as `char`.
    pub fn of(self, key: &[u8], signed_char: bool) -> u32 {
        let wide = |byte: u8| if signed_char { byte.cast_signed() as u32 } else { u32::from(byte) };
        match self {
            Self::OneAtATime => one_at_a_time(key, wide),
            Self::Md5 => {
                let digest = Md5::digest(key);
                u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]])
            }
            // Never cut to sixteen bits.
            Self::Crc16 => key.iter().fold(0_u32, |crc, &byte| (crc << 8) ^ u32::from(CRC16[((crc >> 8) as u8 ^ byte) as usize])),
            Self::Crc32 => (crc32fast::hash(key) >> 16) & 0x7fff,
            Self::Crc32a => crc32fast::hash(key),
            Self::Fnv164 => {
                let wider = |byte: u8| if signed_char { byte.cast_signed() as u64 } else { u64::from(byte) };
                key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| hash.wrapping_mul(0x0100_0000_01b3) ^ wider(byte)) as u32
            }
            // In 32 bits from the beginning, whatever it is called.
            Self::Fnv1a64 => key.iter().fold(0x8422_2325_u32, |hash, &byte| (hash ^ wide(byte)).wrapping_mul(0x0000_01b3)),
            Self::Fnv132 => key.iter().fold(2_166_136_261_u32, |hash, &byte| hash.wrapping_mul(16_777_619) ^ wide(byte)),
            Self::Fnv1a32 => key.iter().fold(2_166_136_261_u32, |hash, &byte| (hash ^ wide(byte)).wrapping_mul(16_777_619)),
            Self::Hsieh => hsieh(key, wide),
            Self::Murmur => murmur2(0xdead_beef_u32.wrapping_mul(key.len() as u32), key),
            Self::Jenkins => jenkins(key),
        }
    }
}

/// CRC-16/XMODEM, as Redis Cluster has it.
pub fn crc16(key: &[u8]) -> u16 {
    key.iter().fold(0_u16, |crc, &byte| (crc << 8) ^ CRC16[((crc >> 8) as u8 ^ byte) as usize])
}

/// Polynomial 0x1021.
const CRC16: [u16; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// Bob Jenkins, "Algorithm Alley", Dr. Dobb's Journal, September 1997.
fn one_at_a_time(key: &[u8], wide: impl Fn(u8) -> u32) -> u32 {
    let mut hash = 0_u32;
    for &byte in key {
        hash = hash.wrapping_add(wide(byte));
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

/// Paul Hsieh, `SuperFastHash`, 2004; beginning with 0.
fn hsieh(key: &[u8], wide: impl Fn(u8) -> u32) -> u32 {
    let pair = |bytes: &[u8]| u32::from(u16::from_le_bytes([bytes[0], bytes[1]]));
    let mut hash = 0_u32;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        hash = hash.wrapping_add(pair(word));
        hash = (hash << 16) ^ ((pair(&word[2..]) << 11) ^ hash);
        hash = hash.wrapping_add(hash >> 11);
    }
    match *rest {
        [_, _, last] => {
            hash = hash.wrapping_add(pair(rest));
            hash ^= hash << 16;
            hash ^= wide(last) << 18;
            hash = hash.wrapping_add(hash >> 11);
        }
        [_, _] => {
            hash = hash.wrapping_add(pair(rest));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        [last] => {
            hash = hash.wrapping_add(last.into());
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        _ => {}
    }
    hash ^= hash << 3;
    hash = hash.wrapping_add(hash >> 5);
    hash ^= hash << 4;
    hash = hash.wrapping_add(hash >> 17);
    hash ^= hash << 25;
    hash.wrapping_add(hash >> 6)
}

/// Austin Appleby, `MurmurHash2`, 2008.
pub fn murmur2(seed: u32, key: &[u8]) -> u32 {
    const FACTOR: u32 = 0x5bd1_e995;
    let mut hash = seed ^ key.len() as u32;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut value = u32::from_le_bytes(*word).wrapping_mul(FACTOR);
        value ^= value >> 24;
        hash = hash.wrapping_mul(FACTOR) ^ value.wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let mut word = [0; 4];
        word[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u32::from_le_bytes(word)).wrapping_mul(FACTOR);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(FACTOR);
    hash ^ (hash >> 15)
}

/// Bob Jenkins, "lookup3", 2006: `hashlittle` beginning with 13.
fn jenkins(key: &[u8]) -> u32 {
    let begin = 0xdead_beef_u32.wrapping_add(key.len() as u32).wrapping_add(13);
    let (mut a, mut b, mut c) = (begin, begin, begin);
    if key.is_empty() {
        return c;
    }
    let word = |bytes: &[u8], at: usize| {
        let mut word = [0; 4];
        for (to, from) in word.iter_mut().zip(bytes.get(at..).unwrap_or_default()) {
            *to = *from;
        }
        u32::from_le_bytes(word)
    };
    let mut rest = key;
    while rest.len() > 12 {
        a = a.wrapping_add(word(rest, 0));
        b = b.wrapping_add(word(rest, 4));
        c = c.wrapping_add(word(rest, 8));
        for (of, with, add, turn) in [(0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4)] {
            let mut all = [a, b, c];
            all[of] = all[of].wrapping_sub(all[with]) ^ all[with].rotate_left(turn);
            all[with] = all[with].wrapping_add(all[add]);
            [a, b, c] = all;
        }
        rest = &rest[12..];
    }
    a = a.wrapping_add(word(rest, 0));
    b = b.wrapping_add(word(rest, 4));
    c = c.wrapping_add(word(rest, 8));
    for (of, with, turn) in [(2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24)] {
        let mut all = [a, b, c];
        all[of] = (all[of] ^ all[with]).wrapping_sub(all[with].rotate_left(turn));
        [a, b, c] = all;
    }
    c
}
