//! What does each step of a governed request cost in time?
//!
//! Budgets to hold these against: ES256 sign 20 us and verify 60 us on one 2-core machine; parsing and
//! deciding should vanish beside them.

use criterion::{Criterion, criterion_group, criterion_main};

#[expect(
    clippy::expect_used,
    reason = "a bench that cannot be set up must stop, not measure something else"
)]
fn every_step(criterion: &mut Criterion) {
    for mut step in caracal_micro::steps().expect("every step can be set up") {
        criterion.bench_function(step.name, |bencher| bencher.iter(&mut step.run));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = every_step
}
criterion_main!(benches);
