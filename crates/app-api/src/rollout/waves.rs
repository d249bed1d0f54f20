//! Divides the tenants of an app into waves. Pure.

use protocol::State;
use protocol::rollouts::Waves;

/// Returns the sizes of the waves of `tenants` tenants; their sum is `tenants`.
pub fn sizes(waves: Waves, tenants: usize) -> Vec<usize> {
    let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX).max(1);
    let (first, each) = match waves {
        Waves::Canary(n) => (count(n), tenants),
        Waves::Percent(percent) => {
            let each = tenants.saturating_mul(count(percent)).div_ceil(100);
            (each, each)
        }
        Waves::Size(n) => (count(n), count(n)),
    };
    let (mut sizes, mut left, mut next) = (Vec::new(), tenants, first);
    while left > 0 {
        let size = next.min(left);
        sizes.push(size);
        left -= size;
        next = each.max(1);
    }
    sizes
}

/// The place of a tenant in the order of the waves: those that show at once whether a release works come first. An error
/// of a tenant with untried variables shows nothing.
pub fn place(state: State, has_untried_variables: bool) -> u8 {
    match state {
        _ if has_untried_variables => 4,
        State::Running => 0,
        State::Starting | State::Provisioning => 1,
        State::Frozen => 2,
        State::Sleeping => 3,
        State::Stopped | State::Error | State::Deleting => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn waves_are_cut_by_number_or_share() {
        for (waves, tenants, expected) in [
            (Waves::Canary(1), 5, vec![1, 4]),
            (Waves::Canary(9), 5, vec![5]),
            (Waves::Percent(10), 25, vec![3, 3, 3, 3, 3, 3, 3, 3, 1]),
            (Waves::Percent(100), 3, vec![3]),
            (Waves::Percent(1), 3, vec![1, 1, 1]),
            (Waves::Size(2), 5, vec![2, 2, 1]),
            (Waves::Size(1), 0, vec![]),
        ] {
            assert_eq!(sizes(waves, tenants), expected, "{waves:?} of {tenants}");
        }
    }

    proptest! {
        #[test]
        fn each_tenant_is_in_one_wave(kind in 0..3, n in 0_u32.., tenants in 0_usize..2_000) {
            let waves = match kind {
                0 => Waves::Canary(n),
                1 => Waves::Percent(n % 101),
                _ => Waves::Size(n),
            };
            let sizes = sizes(waves, tenants);
            prop_assert_eq!(sizes.iter().sum::<usize>(), tenants);
            prop_assert!(sizes.iter().all(|size| *size > 0));
        }
    }
}
