//! The numbers of projects. Pure: what the filesystem has is an argument.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use protocol::TenantId;

use super::kernel::Membership;

/// The projects of tenants. Others use small numbers: administrators, the engine, Kubernetes.
pub(super) const PROJECTS: Range<u32> = 0x4000_0000..0x8000_0000;
/// More tenants in a row than this never have neighbouring numbers.
const MAX_CANDIDATES: u32 = 64;

/// ext4 is made with one inode for so many bytes.
const BYTES_PER_INODE: u64 = 16 << 10;
const MIN_INODES: u64 = 4096;

/// The number of files and directories that a tenant may have.
pub(super) fn max_inodes(limit_bytes: u64) -> u64 {
    (limit_bytes / BYTES_PER_INODE).max(MIN_INODES)
}

/// Chooses the project of a tenant whose volumes are part of `own`: one of these, otherwise one that follows from the
/// tenant's id. It is nobody else's: no volume of another tenant is part of it, and the kernel counts no file for it.
pub(super) fn choose<E>(
    tenant: TenantId,
    own: [u32; 2],
    others: &HashSet<u32>,
    has_files: impl Fn(u32) -> Result<bool, E>,
) -> Result<Option<u32>, E> {
    let is_free = |project: &u32| !others.contains(project);
    if let Some(own) = own.into_iter().find(|own| PROJECTS.contains(own) && is_free(own)) {
        return Ok(Some(own));
    }
    for project in candidates(tenant).filter(is_free) {
        if !has_files(project)? {
            return Ok(Some(project));
        }
    }
    Ok(None)
}

fn candidates(tenant: TenantId) -> impl Iterator<Item = u32> {
    // These bits of the id are random.
    let [.., a, b, c, d] = tenant.uuid().into_bytes();
    let (count, first) = (PROJECTS.end - PROJECTS.start, u32::from_be_bytes([a, b, c, d]));
    (0..MAX_CANDIDATES).map(move |n| PROJECTS.start + first.wrapping_add(n) % count)
}

/// The tenants both of whose volumes are whole parts of one project that is no other tenant's.
pub(super) fn projects_of_tenants(
    volumes: &[(TenantId, [Membership; 2])],
) -> HashMap<TenantId, u32> {
    let mut tenants: HashMap<u32, HashSet<TenantId>> = HashMap::new();
    for (tenant, memberships) in volumes {
        for Membership { project, .. } in memberships {
            tenants.entry(*project).or_default().insert(*tenant);
        }
    }
    let project = |(tenant, [data, files]): &(TenantId, [Membership; 2])| {
        let project = data.project;
        let is_own = tenants.get(&project).is_some_and(|tenants| tenants.len() == 1);
        let is_whole = data == files && data.is_inherited;
        (PROJECTS.contains(&project) && is_whole && is_own).then_some((*tenant, project))
    };
    volumes.iter().filter_map(project).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    const FIRST: u32 = 0x4123_4567;

    fn tenant(last: u32) -> TenantId {
        format!("0192f0c1-2345-7abc-8def-0123{last:08x}").parse().unwrap()
    }

    fn chosen(own: [u32; 2], others: &[u32], with_files: &[u32]) -> Option<u32> {
        let others = others.iter().copied().collect();
        let has_files = |project| Ok::<_, Infallible>(with_files.contains(&project));
        let Ok(chosen) = choose(tenant(0x8123_4567), own, &others, has_files);
        chosen
    }

    #[test]
    fn a_tenant_keeps_its_project_or_gets_the_first_that_is_nobodys() {
        let all: Vec<_> = (FIRST..FIRST + 64).collect();
        for (own, others, with_files, expected) in [
            ([0, 0], &[][..], &[][..], Some(FIRST)),
            ([0, 0], &[FIRST], &[], Some(FIRST + 1)),
            ([0, 0], &[FIRST], &[FIRST + 1], Some(FIRST + 2)),
            ([0, 0], &all, &[], None),
            ([0, 0], &[], &all, None),
            // Its own files are counted for its own project.
            ([FIRST + 9, FIRST + 9], &[], &[FIRST + 9], Some(FIRST + 9)),
            // One volume was reached before a kill.
            ([0, FIRST + 9], &[], &[FIRST + 9], Some(FIRST + 9)),
            // A copy of another tenant's volume, and what an administrator uses.
            ([FIRST + 9, 0], &[FIRST + 9], &[FIRST + 9], Some(FIRST)),
            ([7, 7], &[], &[7], Some(FIRST)),
        ] {
            assert_eq!(chosen(own, others, with_files), expected, "{own:?} {others:?}");
        }
    }

    #[test]
    fn a_tenant_has_a_project_once_both_volumes_are_whole_parts_of_it_and_no_other_volume_is() {
        let of = |project, is_inherited| Membership { project, is_inherited };
        let (a, b, whole) = (tenant(1), tenant(2), of(FIRST, true));
        for (volumes, expected) in [
            (vec![(a, [whole, whole])], vec![(a, FIRST)]),
            (vec![(a, [whole, of(FIRST, false)])], vec![]),
            (vec![(a, [of(FIRST, false), of(FIRST, false)])], vec![]),
            (vec![(a, [whole, of(FIRST + 1, true)])], vec![]),
            (vec![(a, [of(7, true), of(7, true)])], vec![]),
            (vec![(a, [whole, whole]), (b, [of(0, false), whole])], vec![]),
            (
                vec![(a, [whole, whole]), (b, [of(FIRST + 1, true); 2])],
                vec![(a, FIRST), (b, FIRST + 1)],
            ),
        ] {
            assert_eq!(
                projects_of_tenants(&volumes),
                expected.into_iter().collect(),
                "{volumes:?}"
            );
        }
    }

    #[test]
    fn files_are_bounded_by_the_bytes() {
        for (bytes, inodes) in [(10 << 30, 655_360), (64 << 20, 4096), (0, 4096)] {
            assert_eq!(max_inodes(bytes), inodes);
        }
    }

    proptest! {
        #[test]
        fn every_candidate_is_in_the_range_and_a_tenants_are_distinct(id: u128) {
            let tenant = TenantId::new(uuid::Uuid::from_u128(id));
            let candidates: HashSet<_> = candidates(tenant).collect();
            prop_assert_eq!(candidates.len(), 64);
            prop_assert!(candidates.iter().all(|project| PROJECTS.contains(project)));
        }
    }
}
