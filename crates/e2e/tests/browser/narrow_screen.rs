//! The admin on the screen of a telephone.

use e2e::Browser;
use testkit::Installation;

/// In CSS pixels: the narrowest of the telephones that are sold today.
const WIDTH: u32 = 390;
/// Lists the selects that are narrower than their widest option needs. A copy of a select whose width is free shows what that is.
const CUT_SELECTS: &str = "
    const done = arguments[arguments.length - 1];
    const selects = [...document.querySelectorAll('main select')];
    const cut = selects.filter((select) => {
        const free = select.cloneNode(true);
        free.removeAttribute('id');
        free.style.position = 'absolute';
        free.style.inlineSize = 'max-content';
        free.style.maxInlineSize = 'none';
        select.after(free);
        const needed = free.offsetWidth;
        free.remove();
        return needed > select.offsetWidth;
    });
    done({ selects: selects.length, cut: cut.map((select) => select.name) });
";

/// Lists what reaches beyond the right edge of the screen, unless a parent scrolls it.
const BEYOND: &str = "
    const done = arguments[arguments.length - 1];
    const width = document.documentElement.clientWidth;
    const isScrolled = (element) => element && (getComputedStyle(element).overflowX === 'auto' || isScrolled(element.parentElement));
    const beyond = [...document.querySelectorAll('body *')].filter((element) =>
        element.getBoundingClientRect().right > width + 1 && !isScrolled(element.parentElement));
    const scrolls = document.documentElement.scrollWidth > width;
    done(scrolls ? beyond.map((element) => element.tagName + '.' + element.className) : []);
";

/// "after 1" is not the same as "after 1 min": the whole text of each choice must be visible.
pub(crate) async fn cuts_no_choice(
    browser: &Browser,
    installation: &Installation,
) -> anyhow::Result<()> {
    browser.emulate_width(Some(WIDTH)).await?;
    for (path, least) in [("/admin/tenants/acme/edit", 4), ("/admin/keys", 1)] {
        browser.open(&installation.admin(path)).await?;
        let found = browser.script(CUT_SELECTS, Vec::new()).await?;
        let selects = found["selects"].as_u64().unwrap_or_default();
        assert!(selects >= least, "{path} has {selects} selects");
        assert_eq!(found["cut"], serde_json::json!([]), "{path} at {WIDTH} px");
    }
    browser.screenshot("4-narrow").await?;
    for path in [
        "/admin",
        "/admin/tenants/acme",
        "/admin/tenants/acme/edit",
        "/admin/tenants/acme/members",
        "/admin/keys",
        "/admin/webhooks",
        "/admin/team",
        "/admin/audit",
        "/admin/account",
    ] {
        browser.open(&installation.admin(path)).await?;
        let beyond = browser.script(BEYOND, Vec::new()).await?;
        assert_eq!(beyond, serde_json::json!([]), "{path} scrolls sideways at {WIDTH} px");
    }
    browser.emulate_width(None).await
}
