use itertools::Itertools as _;
use proptest::prelude::*;

use super::*;

fn auto(ceiling: usize) -> LimitSearch {
    LimitSearch::from(200, ceiling)
}

/// Sizes asked for one after another on a node that takes `limit`, and whether each succeeded.
fn tries(search: &mut LimitSearch, limit: usize, calls: usize) -> Vec<(usize, bool)> {
    (0..calls)
        .map(|_| {
            let size = search.next_size();
            let fits = size.len <= limit;
            if fits {
                search.succeeded(size.len)
            } else {
                search.too_large(size.len, None)
            }
            search.ended(size);
            (size.len, fits)
        })
        .collect()
}

#[test]
fn a_limit_is_closed_in_on() {
    let mut tried = tries(&mut auto(60_000), 2_300, 17);
    // Between two attempts that fail, some requests go by that do not.
    tried.dedup();
    let expected = [
        (200, true),
        (400, true),
        (800, true),
        (1_600, true),
        (3_200, false),
        (1_600, true),
        (2_400, false),
        (1_600, true),
        (2_000, true),
        (2_200, true),
        (2_300, true),
    ];
    assert_eq!(tried, expected);
}

/// Sizes that are given out at once.
fn at_once(search: &mut LimitSearch, count: usize) -> Vec<Size> {
    (0..count).map(|_| search.next_size()).collect()
}

/// The sizes alone.
fn lens(sizes: &[Size]) -> Vec<usize> {
    sizes.iter().map(|size| size.len).collect()
}

#[test]
fn several_sizes_are_tried_at_once() {
    let mut search = auto(60_000);
    let sizes = at_once(&mut search, 5);
    assert_eq!(lens(&sizes), [200, 400, 800, 1_600, 200]);
    assert_eq!(sizes.iter().filter(|size| size.is_untried).count(), 4);
    search.succeeded(400);
    search.ended(sizes[1]);
    assert_eq!(lens(&at_once(&mut search, 3)), [3_200, 400, 400], "1,600 is under way");
}

#[test]
fn where_every_size_fails_smaller_ones_are_tried_at_once() {
    let mut search = auto(60_000);
    for size in at_once(&mut search, 4) {
        search.too_large(size.len, None);
        search.ended(size);
    }
    // Few at once, while none is known to succeed.
    assert_eq!(search.at_once(), 1);
    assert_eq!(lens(&at_once(&mut search, 4)), [100, 50, 25, 12]);
    search.succeeded(25);
    assert_eq!(search.at_once(), usize::MAX);
}

/// A far node.
#[derive(Clone, Copy)]
struct Node {
    /// Wallets in a call, at most; of half as many calls it takes `spread` more than of others.
    limit: usize,
    spread: usize,
    /// How long a round trip takes, in wallets that it could read meanwhile.
    round_trip: usize,
    /// Calls in flight, at most.
    at_once: usize,
}

impl Node {
    fn with_limit(limit: usize) -> Self {
        Self { limit, spread: 0, round_trip: 10_000, at_once: 4 }
    }

    /// How a search goes on there: the sizes in the order in which they ended, and which succeeded.
    fn run(self, search: &mut LimitSearch, mut left: usize) -> Vec<(usize, bool)> {
        // When it ends, how much was asked, of which size.
        let mut under_way: Vec<(usize, usize, Size)> = Vec::new();
        let (mut now, mut tried) = (0, Vec::new());
        loop {
            // All calls in flight take at most 18 MB, at 104 bytes a wallet.
            let fit = |search: &LimitSearch| (18_000_000 / 104 / search.largest()).max(1);
            while left > 0 && under_way.len() < self.at_once.min(search.at_once()).min(fit(search))
            {
                let size = match search.enough_without_trying(self.at_once) {
                    Some(enough) if left <= enough => search.last_size(left),
                    _ => search.next_size(),
                };
                let asked = size.len.min(left);
                left -= asked;
                under_way.push((now + self.round_trip + asked.min(self.limit), asked, size));
            }
            let first = (0..under_way.len()).min_by_key(|index| under_way[*index].0);
            let Some(first) = first else { return tried };
            let (ended, asked, size) = under_way.remove(first);
            now = ended;
            let fits = asked <= self.limit + tried.len() % 2 * self.spread;
            let gives_back = search.gives_back(asked);
            match fits {
                true => search.succeeded(asked),
                false => search.too_large(asked, None),
            }
            search.ended(size);
            tried.push((asked, fits));
            match (fits, gives_back) {
                (true, _) => {}
                (false, true) => left += asked,
                (false, false) => tried.extend([(asked / 2, true); 2]),
            }
        }
    }
}

/// The same on a node with this limit, with so many calls in flight at most.
fn run(search: &mut LimitSearch, left: usize, limit: usize, at_once: usize) -> Vec<(usize, bool)> {
    Node { at_once, ..Node::with_limit(limit) }.run(search, left)
}

/// What the packed reader has for three parts.
fn packed() -> LimitSearch {
    LimitSearch::from(4_313, 57_692).with_usual(4_901)
}

#[test]
fn a_provider_that_allows_550m_gas_is_read_in_few_calls() {
    // Packed takes 10,116 gas a wallet here, 10,636 with the genuine contracts; some wallets take more than others.
    for (gas, spread, most) in [(10_116, 0, 72), (10_116, 800, 75), (10_636, 0, 76)] {
        for (at_once, round_trip) in [1, 2, 4].into_iter().cartesian_product([100, 10_000]) {
            let node = Node { limit: 550_000_000 / gas - spread / 2, spread, round_trip, at_once };
            let tried = node.run(&mut packed(), 3_150_000);
            let calls = tried.len();
            assert!(calls <= most, "{gas}, {spread}, {at_once}, {round_trip}: {calls}: {tried:?}");
        }
    }
}

#[test]
fn a_small_table_is_read_in_two_waves() {
    // At 50M gas, and at 100M.
    for limit in [4_700, 4_943, 9_886] {
        let tried = run(&mut packed(), 20_000, limit, 4);
        assert!(tried.len() <= 6 && tried.iter().all(|(_, fits)| *fits), "{tried:?}");
    }
    // Below what is usual, the first calls fail, and others find out at once what is taken.
    let tried = run(&mut packed(), 20_000, 2_400, 4);
    let lost = tried.iter().filter(|(_, fits)| !fits).count();
    assert!(lost <= 6 && tried.len() <= 20, "{tried:?}");
}

#[test]
fn what_a_few_calls_can_do_is_not_tried_with_fewer() {
    let mut search = packed();
    let sizes = at_once(&mut search, 2);
    assert_eq!(
        lens(&sizes),
        [4_313, 4_313],
        "it is not known yet whether twice as much may succeed"
    );
    assert_eq!(search.enough_without_trying(4), None);
    search.succeeded(4_313);
    sizes.iter().for_each(|size| search.ended(*size));
    assert_eq!(search.enough_without_trying(4), Some(4 * 4_313));
    assert_eq!(search.enough_without_trying(1), Some(4_313));
    assert_eq!(search.last_size(7_000), Size { len: 3_500, is_untried: false });
    assert_eq!(search.next_size(), Size { len: 8_626, is_untried: true });
}

#[test]
fn a_million_gas_is_found_in_few_calls() {
    for at_once in [1, 4, 16] {
        let tried = run(&mut packed(), 20_000, 95, at_once);
        let lost = tried.iter().filter(|(_, fits)| !fits).count();
        assert!(lost <= 16 && tried.len() <= 260, "{at_once}: {} calls, {lost} lost", tried.len());
    }
}

#[test]
fn a_search_goes_on_where_an_earlier_one_ended() {
    let mut search = packed();
    run(&mut search, 3_150_000, 4_900, 4);
    let found = search.found().unwrap();
    assert!(found.good >= 4_750 && found.bad <= Some(5_060), "{found:?}");
    let mut next = packed().with_hint(found);
    let first = next.next_size();
    assert_eq!(first, Size { len: found.good, is_untried: true });
    assert_eq!(next.next_size(), Size { len: 4_313, is_untried: false }, "one tries a hint");
    next.succeeded(first.len);
    next.ended(first);
    let tried = run(&mut next, 40_000, 4_900, 4);
    assert!(tried.iter().all(|(asked, fits)| *fits && *asked <= found.good), "{tried:?}");
    assert_eq!(next.found(), Some(found));
}

#[test]
fn a_wrong_hint_costs_one_request() {
    let lost = |search: &LimitSearch| {
        let tried = run(&mut search.clone(), 100_000, 4_900, 4);
        tried.iter().filter(|(_, fits)| !fits).count()
    };
    let without = lost(&packed());
    for good in [5_000, 9_000, 54_000, 57_692, 1_000_000] {
        let hinted = packed().with_hint(Found { good, bad: Some(good + good / 32) });
        assert!(lost(&hinted) <= without + 2, "{good}: {} and {without}", lost(&hinted));
        let mut search = hinted;
        run(&mut search, 100_000, 4_900, 4);
        assert!(search.found().is_some_and(|found| found.good <= 4_900), "it is replaced");
    }
    // One that is too small: of another node.
    let calls = |search: LimitSearch| run(&mut search.clone(), 100_000, 4_900, 4).len();
    let small = packed().with_hint(Found { good: 95, bad: None });
    assert!(calls(small.clone()) <= calls(packed()) + 16, "{}", calls(small));
}

#[test]
fn what_a_small_run_did_not_try_is_no_hint() {
    let mut search = packed();
    run(&mut search, 50, 4_900, 4);
    assert_eq!(search.found(), None);
    let mut search = packed().with_hint(Found { good: 4_600, bad: Some(4_800) });
    run(&mut search, 50, 4_900, 4);
    assert_eq!(search.found(), None);
}

#[test]
fn a_node_that_takes_fewer_than_the_first_try_is_found_out() {
    let mut search = auto(60_000);
    let tried = tries(&mut search, 100, 6);
    assert_eq!(tried[0], (200, false));
    assert_eq!(tried[1], (100, true));
    assert!(tried[5].0 >= 94 && tried[5].0 <= 106, "{tried:?}");
}

/// Wallets differ, so that the limit is not sharp: what succeeds once may fail the next time.
#[test]
fn near_the_limit_few_calls_are_lost() {
    let mut search = auto(60_000);
    let (mut lost, mut asked) = (0, 0);
    for call in 0..600 {
        let limit = 5_900 + (call * 7_919) % 200;
        let (wallets, fits) = tries(&mut search, limit, 1)[0];
        asked += wallets;
        lost += usize::from(!fits);
    }
    assert!(lost <= 16, "{lost} calls were too much");
    assert!(asked / 600 >= 5_300, "{} wallets a call", asked / 600);
}

/// As where another node answers behind the same URL.
#[test]
fn a_limit_that_falls_is_followed_and_one_that_rises_too() {
    let mut search = auto(60_000);
    tries(&mut search, 5_000, 30);
    let fallen = tries(&mut search, 500, 20);
    assert!(fallen.iter().filter(|(_, fits)| !fits).count() <= 10, "{fallen:?}");
    assert!((450..=500).contains(&fallen.last().unwrap().0), "{fallen:?}");
    let risen = tries(&mut search, 5_000, 2_000);
    assert!(risen.last().unwrap().0 >= 4_600, "{:?}", risen.last());
}

/// Of requests that any size can fail, three in a hundred do, once every retry is spent.
#[test]
fn bad_moments_do_not_keep_sizes_small() {
    for offset in 0..30 {
        let mut search = auto(2_600);
        let mut asked = 0;
        for call in 0..120 {
            let size = search.next_size();
            match (call + offset) % 33 == 0 {
                true => search.may_be_too_large(size.len),
                false => search.succeeded(size.len),
            }
            search.ended(size);
            asked += size.len;
        }
        assert!(asked / 120 >= 2_000, "{offset}: {} wallets a call", asked / 120);
    }
}

/// As behind a gateway that cuts off what takes too long.
#[test]
fn a_limit_that_the_node_does_not_state_is_found_at_little_cost() {
    let mut search = auto(60_000);
    let (mut lost, mut asked) = (0, 0);
    for _ in 0..600 {
        let size = search.next_size();
        match size.len <= 2_300 {
            true => (search.succeeded(size.len), asked += size.len).0,
            false => (search.may_be_too_large(size.len), lost += 1).0,
        }
        search.ended(size);
    }
    assert!(lost <= 16, "{lost} calls were too much");
    assert!(asked / 600 >= 2_100, "{} wallets a call", asked / 600);
}

#[test]
fn a_number_is_a_ceiling_from_the_start() {
    let mut search = LimitSearch::at_most(500);
    assert!(tries(&mut search, 10_000, 50).iter().all(|tried| *tried == (500, true)));
    search.too_large(500, None);
    let tried = tries(&mut search, 10_000, 100);
    assert_eq!(tried[0].0, 485);
    assert!(tried.iter().all(|(wallets, _)| *wallets <= 500));
    assert_eq!(tried.last(), Some(&(500, true)), "what failed once succeeds later");
}

#[test]
fn a_size_is_tried_by_one_call_at_a_time() {
    let mut search = auto(60_000);
    tries(&mut search, 60_000, 1);
    let sizes = at_once(&mut search, 4);
    assert_eq!(lens(&sizes), [400, 800, 1_600, 200]);
    search.ended(sizes[3]);
    assert_eq!(search.next_size(), Size { len: 200, is_untried: false });
    sizes.iter().for_each(|size| search.ended(*size));
    assert_eq!(search.next_size(), Size { len: 400, is_untried: true }, "it did not come to it");
}

#[test]
fn one_poisoned_chunk_makes_the_next_ones_little_smaller() {
    let mut search = auto(60_000);
    let before = tries(&mut search, 5_000, 40).last().unwrap().0;
    search.too_large(before, None);
    let after = tries(&mut search, 5_000, 60);
    assert!(after.iter().all(|(wallets, _)| *wallets >= before * 15 / 16), "{after:?}");
}

#[test]
fn a_number_that_is_too_much_is_halved_and_the_limit_closed_in_on() {
    for (number, limit) in [(5_000, 1_488), (20_000, 5_050), (2_000, 1_000)] {
        let calls = LimitSearch::at_most(number).requests_for(1_000_000, limit, 1);
        let fewest = 1_000_000 / limit as u64;
        assert!(calls <= fewest * 11 / 10 + 20, "{number}, {limit}: {calls} of {fewest}");
    }
}

#[test]
fn a_size_that_fails_now_and_then_is_not_gone_back_to_at_once() {
    let mut search = auto(60_000);
    search.succeeded(2_000);
    search.too_large(2_100, None);
    search.too_large(2_000, None);
    assert_eq!(search.next_size().len, 1_938);
    // It was under way.
    search.succeeded(2_000);
    assert_eq!(search.next_size(), Size { len: 1_938, is_untried: false });
    assert!(search.gives_back(2_000), "it is close to what never succeeded");
    let settled = tries(&mut search, 2_000, 100);
    assert!(settled.iter().filter(|(_, fits)| !fits).count() <= 2, "{settled:?}");
    assert_eq!(search.found().map(|found| found.good), Some(2_000));
}

#[test]
fn one_wallet_that_fails_alone_says_nothing_of_sizes() {
    let mut search = auto(60_000);
    search.too_large(1, None);
    assert_eq!(search.next_size().len, 200);
}

#[test]
fn a_limit_that_the_node_states_is_met_at_once_and_kept() {
    let mut search = LimitSearch::from(10_000, 10_000);
    let mut refused = 0;
    for _ in 0..720 {
        let size = search.next_size();
        match size.len <= 10 {
            true => search.succeeded(size.len),
            false => search.too_large(size.len, Some(10)),
        }
        refused += u32::from(size.len > 10);
        search.ended(size);
    }
    assert_eq!(search.largest(), 10);
    assert!(refused <= 4, "{refused} requests were too large");
}

#[test]
fn several_failures_of_one_size_count_once() {
    let mut search = LimitSearch::from(10_000, 10_000);
    (0..4).for_each(|_| search.too_large(10_000, None));
    assert_eq!(search.next_size().len, 5_000);
}

#[test]
fn the_plan_of_a_table_is_near_the_fewest_calls() {
    // 50M gas at 9.8k and at 21k a wallet, and 2 MB at 1,344 bytes a wallet.
    for (limit, most) in [(5_100, 700), (2_380, 1_450), (1_560, 2_300)] {
        let calls = auto(60_000).requests_for(3_150_000, limit, 4);
        let fewest = 3_150_000_u64.div_ceil(limit as u64);
        assert!(calls >= fewest && calls <= most, "{limit}: {calls} of {fewest}");
    }
    assert_eq!(LimitSearch::at_most(200).requests_for(1_001, 5_000, 4), 6);
    assert_eq!(auto(60_000).requests_for(3, 5_000, 4), 1);
    assert_eq!(auto(60_000).requests_for(0, 5_000, 4), 0);
}

proptest! {
    /// Whatever fails and succeeds, the next size is one that may be asked for.
    #[test]
    fn a_size_is_never_none_and_never_above_the_ceiling(
        ceiling in 1_usize..5_000,
        outcomes in prop::collection::vec((any::<bool>(), any::<Option<usize>>()), 0..200),
    ) {
        let mut search = auto(ceiling);
        for (fits, allowed) in outcomes {
            let size = search.next_size();
            prop_assert!((1..=ceiling).contains(&size.len));
            if fits { search.succeeded(size.len) } else { search.too_large(size.len, allowed) }
            search.ended(size);
        }
    }

    /// On a node with a fixed limit, 20 calls are enough to come near.
    #[test]
    fn a_fixed_limit_is_found(limit in 1_usize..50_000) {
        let mut search = auto(60_000);
        tries(&mut search, limit, 20);
        let settled = tries(&mut search, limit, 12);
        let best = settled.iter().filter(|(_, fits)| *fits).map(|(wallets, _)| *wallets).max();
        prop_assert!(best.unwrap() * 18 >= limit * 16, "{limit}: {settled:?}");
    }
}

#[test]
fn far_below_what_failed_the_next_size_is_tried_at_once() {
    let mut search = LimitSearch::from(2_303, 57_000);
    search.succeeded(98);
    search.too_large(2_303, None);
    let size = search.next_size();
    assert_eq!(size, Size { len: 1_200, is_untried: true });
    search.too_large(size.len, None);
    search.ended(size);
    assert_eq!(search.next_size(), Size { len: 649, is_untried: true });
}
