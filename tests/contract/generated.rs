//! Files of the repository that are made from code.

use counter_tests::programs::repository;

#[test]
fn the_charts_crd_is_the_one_that_the_operator_prints() {
    let kept = std::fs::read_to_string(repository("charts/distributed-counter/files/crd.yaml")).unwrap_or_default();
    assert!(kept == operator::crd::yaml(), "charts/distributed-counter/files/crd.yaml is not current: run `make crds`");
}
