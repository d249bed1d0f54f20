//! The engine restarts every service after any end of the service or its machine. Only a one-off
//! service stays down after its work is done.

use super::tree::Tree;

const POLICY: &str = "restart: unless-stopped";
/// The anchor that holds the policy for the services that merge it.
const ANCHOR: (&str, &str) = ("x-service", "<<: *service");

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let Some(file) = tree.files.iter().find(|file| file.path == "compose.yml") else {
        return Vec::new();
    };
    let anchored = blocks(&file.text, 0)
        .into_iter()
        .any(|(name, block)| name == ANCHOR.0 && block.contains(POLICY));
    let services = blocks(&file.text, 0).into_iter().find(|(name, _)| *name == "services");
    let services = services.map(|(_, block)| block).unwrap_or_default();
    let once = |name: &str, block: &str| {
        block.contains("profiles: [build-only]")
            || services
                .contains(&format!("{name}: {{ condition: service_completed_successfully }}"))
    };
    let returns = |block: &str| block.contains(POLICY) || anchored && block.contains(ANCHOR.1);
    let stay_down = blocks(&services, 2)
        .into_iter()
        .filter(|(name, block)| !once(name, block) && !returns(block));
    stay_down.map(|(name, _)| format!("compose.yml: {name} lacks {POLICY}")).collect()
}

/// Returns the keys at this indentation, each with the lines below it.
fn blocks(text: &str, indent: usize) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    for line in text.lines() {
        let content = line.trim_start();
        let key = content.split(':').next().unwrap_or_default();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        if line.len() - content.len() == indent {
            blocks.push((key, String::new()));
        } else if let Some((_, block)) = blocks.last_mut() {
            block.push_str(line);
            block.push('\n');
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted::file;
    use super::*;

    #[test]
    fn a_planted_service_that_stays_down_is_found() {
        let tree = |rest: &str| {
            let head = "x-service: &service\n  restart: unless-stopped\n\nservices:\n";
            let one = "  one:\n    <<: *service\n    depends_on:\n      made: { condition: service_completed_successfully }\n";
            file("compose.yml", &format!("{head}{one}  made:\n    image: a\n{rest}"))
        };
        let cases = [
            ("", 0),
            ("  two:\n    image: b\n", 1),
            ("  two:\n    restart: always\n", 1),
            ("  two:\n    restart: unless-stopped\n", 0),
            ("  two:\n    profiles: [build-only]\n", 0),
            ("volumes:\n  postgres: {}\n", 0),
        ];
        for (rest, faults) in cases {
            assert_eq!(check(&tree(rest)).len(), faults, "{rest}");
        }
    }
}
