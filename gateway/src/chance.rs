//! Which names does one request give? Its own, its trace's and its events', from random bytes drawn at once.

use std::fmt;

use aws_lc_rs::rand;

/// The random bytes of one request; each name takes its own, so that no two are alike. They are no secret.
#[derive(Clone)]
pub(crate) struct Chance([u8; 64]);

impl Chance {
    /// Draws them, or gives nothing where there is no randomness. One call of the generator, whose price is the call.
    pub(crate) fn draw() -> Option<Self> {
        let mut bytes = [0; 64];
        rand::fill(&mut bytes).ok().map(|()| Self(bytes))
    }

    /// For the name of the request.
    pub(crate) fn request(&self) -> [u8; 10] {
        self.part(0)
    }

    /// For a trace and its first span.
    pub(crate) fn trace(&self) -> [u8; 24] {
        self.part(10)
    }

    /// For the event before the request goes upstream.
    pub(crate) fn intent(&self) -> [u8; 10] {
        self.part(34)
    }

    /// For the event at its end. A request that went upstream has an outcome, and any other one refusal at most.
    pub(crate) fn end(&self) -> [u8; 10] {
        self.part(44)
    }

    fn part<const N: usize>(&self, begin: usize) -> [u8; N] {
        let part = self.0.get(begin..begin + N);
        part.and_then(|part| part.try_into().ok()).unwrap_or([0; N])
    }
}

impl fmt::Debug for Chance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Chance")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_shares_a_byte_with_another() {
        let mut bytes = [0; 64];
        for (byte, n) in bytes.iter_mut().zip(0..) {
            *byte = n;
        }
        let chance = Chance(bytes);
        let mut all: Vec<u8> = chance.request().into();
        all.extend(chance.trace());
        all.extend(chance.intent());
        all.extend(chance.end());
        let whole: Vec<u8> = (0..54).collect();
        assert_eq!(all, whole);
        let (one, two) = (Chance::draw().unwrap(), Chance::draw().unwrap());
        assert_ne!(one.request(), two.request());
    }
}
