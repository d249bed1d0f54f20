//! A Django site with its admin: its database moves with its releases.

use std::fs;

use anyhow::Result;
use e2e::command_line::succeed;
use e2e::session::Session;
use e2e::{Browser, Checks};
use testkit::Installation;

use crate::example::{Example, sign_in};

const TENANTS: [&str; 3] = ["guestbook-acme", "guestbook-globex", "guestbook-initech"];

const AUTHOR: &str = r#"
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("guestbook", "0001_initial")]
    operations = [
        migrations.AddField("entry", "author", models.CharField(max_length=100, default="unknown")),
    ]
"#;

const BROKEN: &str = r#"
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("guestbook", "0002_author")]
    operations = [migrations.RunSQL("ALTER TABLE no_such_table RENAME TO other")]
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_django_site_moves_its_database_with_its_releases() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let mut session = Session::of_owner(&installation, TENANTS[0]).await?;
    let mut example = Example::copy("django", "guestbook")?;
    checks.require("a release is created", example.release())?;
    for slug in TENANTS {
        checks.require(&format!("{slug} runs"), example.tenant(slug))?;
    }
    let page = session.url_answers(200).await?;
    checks.contains("a visitor without a session is a guest", "a guest", &page.body);

    let browser = Browser::start("django").await?;
    sign_in(&browser, &session, "/admin/guestbook/entry/add/").await?;
    browser.fill("Text", "the first entry").await?;
    browser.press("Save").await?;
    browser.shows("was added successfully").await?;
    browser.open(&installation.tenant_url(TENANTS[0])).await?;
    let known = browser.shows("Hello, owner@example.com.").await;
    checks.require("Django's admin knows the owner and takes an entry", known)?;
    checks.require("the site shows the entry", browser.shows("the first entry").await)?;

    let package = example.folder().join("site/guestbook");
    let models = fs::read_to_string(package.join("models.py"))?;
    let field = "    text = models.CharField(max_length=200)\n";
    let author = "    author = models.CharField(max_length=100, default=\"unknown\")\n";
    let models = models
        .replace(field, &format!("{field}{author}"))
        .replace("return self.text", "return f\"{self.text}, by {self.author}\"");
    fs::write(package.join("models.py"), models)?;
    fs::write(package.join("migrations/0002_author.py"), AUTHOR)?;
    checks.require("a release with another schema is created", example.release())?;
    session.set_policy(0, 1).await?;
    browser.open("about:blank").await?;
    checks.require("a tenant sleeps", session.becomes("sleeping").await)?;
    for slug in TENANTS {
        succeed(&["tenants", "set-release", slug, "v2"], None)?;
    }
    checks.require("its move does not wake it", session.becomes("sleeping").await)?;
    let migrated = session.shows("the first entry, by unknown").await;
    checks.require("at its next visit its database is migrated", migrated)?;
    for slug in &TENANTS[1..] {
        let mut other = Session::of_owner(&installation, slug).await?;
        other.shows("Guestbook").await?;
        let tenant = other.becomes("running").await?;
        checks.equal(
            &format!("{slug} runs v2"),
            "v2",
            tenant["release"].as_str().unwrap_or("none"),
        );
    }

    fs::write(package.join("migrations/0003_broken.py"), BROKEN)?;
    checks.require("a release that cannot migrate is created", example.release())?;
    succeed(&["tenants", "set-release", TENANTS[0], "v3"], None)?;
    // Its policy would end the tenant before its owner sees why it does not run.
    session.set_policy(0, 3600).await?;
    session.act("start").await?;
    let failed = session.becomes("error").await;
    let failed = checks.require("a tenant whose migration fails says so", failed)?;
    let reason = failed["state_reason"].to_string();
    checks.holds("and why", "a reason", &reason, failed["state_reason"].is_string());
    succeed(&["tenants", "set-release", TENANTS[0], "v2"], None)?;
    session.act("start").await?;
    let back = session.shows("the first entry, by unknown").await;
    checks.require("the earlier release brings it back with its data", back)?;
    let mut other = Session::of_owner(&installation, TENANTS[1]).await?;
    checks.require("the others never noticed", other.shows("Guestbook").await)?;
    browser.finish(&["favicon"]).await?;
    checks.require("tenants and app are deleted", example.delete(&TENANTS))?;
    checks.finish()
}
