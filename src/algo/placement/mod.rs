//! stub
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    Maglev,
}
impl Method {
    pub fn check(&self, _m: &[Member<'_>]) -> Result<(), String> {
        Ok(())
    }
}
pub struct Member<'a> {
    pub name: &'a str,
    pub address: &'a str,
    pub has_name: bool,
    pub weight: u32,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    pub value: u64,
    pub length: u32,
}
pub struct Table {
    n: u32,
}
impl Table {
    pub fn build(_: &Method, _: u64, m: &[Member<'_>]) -> Self {
        Self { n: m.len() as u32 }
    }
    pub fn hash(&self, key: &[u8]) -> Hashed {
        Hashed { value: xxhash_rust::xxh3::xxh3_64(key), length: key.len() as u32 }
    }
    pub fn order(&self, k: Hashed) -> Order<'_> {
        Order { t: self, k, at: 0 }
    }
}
pub struct Order<'t> {
    t: &'t Table,
    k: Hashed,
    at: u32,
}
impl Iterator for Order<'_> {
    type Item = u32;
    fn next(&mut self) -> Option<u32> {
        if self.at == self.t.n {
            return None;
        }
        self.at += 1;
        Some(((self.k.value + self.at as u64) % self.t.n as u64) as u32)
    }
}
