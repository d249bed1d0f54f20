//! The text that `btrfs qgroup show` and `btrfs subvolume list` print.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use protocol::TenantId;

use super::folders::tenant_of;

/// The level of the groups that span both volumes of a tenant. Their numbers are those of the data volume's subvolume, which
/// the filesystem never gives again.
const TENANT_LEVEL: u16 = 9;

/// A quota group: `LEVEL/NUMBER`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct GroupId {
    level: u16,
    number: u64,
}

impl GroupId {
    /// The group that each subvolume has from its creation on.
    pub(super) const fn of_subvolume(number: u64) -> Self {
        Self { level: 0, number }
    }

    /// The group of a tenant.
    pub(super) const fn of_tenant(data_subvolume: u64) -> Self {
        Self { level: TENANT_LEVEL, number: data_subvolume }
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.level, self.number)
    }
}

impl FromStr for GroupId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (level, number) = text.split_once('/').ok_or(())?;
        Ok(Self { level: level.parse().map_err(drop)?, number: number.parse().map_err(drop)? })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) used_bytes: u64,
    pub(super) limit_bytes: Option<u64>,
    pub(super) parents: Vec<GroupId>,
}

/// All groups of a filesystem.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Groups(HashMap<GroupId, Group>);

impl Groups {
    /// Reads the lines of `btrfs qgroup show --raw -pre`: id, referenced, exclusive, limit of referenced, limit of exclusive,
    /// parents, and in newer releases a path.
    pub(super) fn parse(text: &str) -> Self {
        let group = |line: &str| {
            let columns: Vec<_> = line.split_whitespace().collect();
            let [id, used, _, limit, _, parents, ..] = columns[..] else { return None };
            let parents = parents.split(',').filter_map(|parent| parent.parse().ok()).collect();
            let (used_bytes, limit_bytes) = (used.parse().ok()?, limit.parse().ok());
            Some((id.parse().ok()?, Group { used_bytes, limit_bytes, parents }))
        };
        Self(text.lines().filter_map(group).collect())
    }

    pub(super) fn get(&self, id: GroupId) -> Option<&Group> {
        self.0.get(&id)
    }

    pub(super) fn is_member(&self, subvolume: u64, of: GroupId) -> bool {
        let group = self.get(GroupId::of_subvolume(subvolume));
        group.is_some_and(|group| group.parents.contains(&of))
    }

    /// The groups of tenants whose subvolume is gone, each with its members.
    pub(super) fn unused(&self, subvolumes: &Subvolumes) -> Vec<(GroupId, Vec<GroupId>)> {
        let tenants = self.0.keys().filter(|id| id.level == TENANT_LEVEL);
        let unused = tenants.filter(|id| !subvolumes.exists(id.number));
        let with_members = |id: &GroupId| {
            let members = self.0.iter().filter(|(_, group)| group.parents.contains(id));
            let mut members: Vec<_> = members.map(|(member, _)| *member).collect();
            members.sort();
            (*id, members)
        };
        let mut unused: Vec<_> = unused.map(with_members).collect();
        unused.sort();
        unused
    }
}

/// All subvolumes of a filesystem: number and path.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Subvolumes(HashMap<u64, String>);

impl Subvolumes {
    /// Reads the lines of `btrfs subvolume list`: `ID 256 gen 9 top level 5 path a/b`.
    pub(super) fn parse(text: &str) -> Self {
        let subvolume = |line: &str| {
            let (head, path) = line.split_once(" path ")?;
            let number = head.strip_prefix("ID ")?.split(' ').next()?.parse().ok()?;
            Some((number, path.to_owned()))
        };
        Self(text.lines().filter_map(subvolume).collect())
    }

    pub(super) fn exists(&self, number: u64) -> bool {
        self.0.contains_key(&number)
    }

    /// The tenants with a subvolume for each volume: the numbers of the data and of the files.
    pub(super) fn tenants(&self) -> Vec<(TenantId, [u64; 2])> {
        // A tenant chooses the names inside its volumes.
        let volume = |path: &str| {
            let mut components = path.strip_suffix("/_data")?.rsplit('/');
            let name = components.next()?;
            components.all(|component| component != "_data").then(|| name.to_owned())
        };
        let volumes = self.0.iter().filter_map(|(number, path)| Some((volume(path)?, *number)));
        let volumes: HashMap<String, u64> = volumes.collect();
        let tenant = |(name, data): (&String, &u64)| {
            let id = tenant_of(name)?;
            Some((id, [*data, *volumes.get(&id.files_volume())?]))
        };
        volumes.iter().filter_map(tenant).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0192f0c1-2345-7abc-8def-0123456789ab";

    /// As btrfs-progs 6.2 prints it, and 5.10 (the last line).
    const SHOWN: &str = "\
Qgroupid    Referenced    Exclusive  Max referenced  Max exclusive Parent     Path
--------    ----------    ---------  --------------  ------------- ------     ----
0/5              16384        16384            none           none -          <toplevel>
0/256         15745024     15745024            none           none 9/256      v/a/_data
0/257            16384        16384            none           none 9/256,1/7  v/b/_data
0/300             4096         4096            none           none 9/299      <stale>
9/256         15761408     15761408        41943040           none -          <0 member qgroups>
9/299             4096         4096        20971520           none ---
";

    #[test]
    fn groups_have_their_use_their_limit_and_their_parents() {
        let groups = Groups::parse(SHOWN);
        let tenant = groups.get(GroupId::of_tenant(256)).unwrap();
        assert_eq!((tenant.used_bytes, tenant.limit_bytes), (15_761_408, Some(41_943_040)));
        assert_eq!(groups.get(GroupId::of_subvolume(5)).unwrap().limit_bytes, None);
        for (subvolume, expected) in [(256, true), (257, true), (5, false), (4, false)] {
            assert_eq!(groups.is_member(subvolume, GroupId::of_tenant(256)), expected);
        }
        assert_eq!(
            Groups::parse("ERROR: can't list qgroups: quotas not enabled"),
            Groups::default()
        );
    }

    #[test]
    fn a_group_is_unused_once_the_data_is_gone() {
        let live = Subvolumes::parse("ID 256 gen 9 top level 5 path v/a/_data\n");
        let unused = Groups::parse(SHOWN).unused(&live);
        let stale = (GroupId::of_tenant(299), vec![GroupId::of_subvolume(300)]);
        assert_eq!(unused, [stale]);
    }

    #[test]
    fn a_tenant_has_two_subvolumes() {
        let list = |files: &str| {
            format!(
                "ID 256 gen 9 top level 5 path engine/volumes/cial-tenant-{ID}-data/_data\n\
                 ID 257 gen 9 top level 5 path engine/volumes/cial-tenant-{ID}-files/{files}\n\
                 ID 258 gen 9 top level 5 path engine/btrfs/subvolumes/0a1b\n"
            )
        };
        let tenants = Subvolumes::parse(&list("_data")).tenants();
        assert_eq!(tenants, [(ID.parse().unwrap(), [256, 257])]);
        assert_eq!(Subvolumes::parse(&list("other")).tenants(), []);
        let inside = |path: &str| path.replace("engine/volumes", "engine/volumes/v/_data/volumes");
        assert_eq!(Subvolumes::parse(&inside(&list("_data"))).tenants(), []);
    }
}
