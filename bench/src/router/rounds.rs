//! Rounds in which every peer has its turn, and their statistics. A figure of one peer is
//! meaningful only beside another peer's figure of the same round.

/// Returns the order of the peers in a round: forwards and backwards by turns, so that no peer
/// always goes first.
pub(super) fn order(round: usize, peers: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..peers).collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Returns, for each round, `peer`'s value divided by the smallest value of `others`. `rounds`
/// holds one value for each peer.
pub(super) fn ratios(rounds: &[Vec<f64>], peer: usize, others: &[usize]) -> Vec<f64> {
    let of = |round: &Vec<f64>| {
        let best = others.iter().map(|other| round[*other]).fold(f64::INFINITY, f64::min);
        round[peer] / best
    };
    rounds.iter().map(of).collect()
}

/// Returns one peer's values.
pub(super) fn column(rounds: &[Vec<f64>], peer: usize) -> Vec<f64> {
    rounds.iter().map(|round| round[peer]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::Figure;

    #[test]
    fn nobody_always_goes_first() {
        assert_eq!(order(0, 3), [0, 1, 2]);
        assert_eq!(order(1, 3), [2, 1, 0]);
    }

    #[test]
    fn a_ratio_is_to_the_better_of_the_same_round() {
        let rounds = [vec![2.0, 4.0, 8.0], vec![3.0, 6.0, 3.0], vec![9.0, 9.0, 9.0]];
        assert_eq!(ratios(&rounds, 0, &[1, 2]), [0.5, 1.0, 1.0]);
        let figure = Figure::median("ratio", &ratios(&rounds, 0, &[1]), "");
        assert_eq!((figure.value, figure.spread), (0.5, Some((0.5, 1.0))));
        assert_eq!(column(&rounds, 2), [8.0, 3.0, 9.0]);
    }
}
