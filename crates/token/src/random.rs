//! Where do fresh random bytes come from? From AWS-LC.

/// `N` fresh random bytes.
#[expect(
    clippy::expect_used,
    reason = "AWS-LC's RAND_bytes aborts the process when the system has no entropy; it never returns failure"
)]
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    aws_lc_rs::rand::fill(&mut out).expect("RAND_bytes cannot fail");
    out
}
