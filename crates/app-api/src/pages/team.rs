//! The people pages: the operators of the platform at `/admin/team`, the members of a tenant at its `members`. Both
//! list people with their roles and open invitations, and show the link of a new invitation once.

use askama::Template;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Redirect, Response};
use protocol::Problem;
use protocol::mails::WaitingMail;
use protocol::people::{ChangeUser, MemberRole, PlatformRole};
use protocol::problem::FieldCode;
use serde::Deserialize;
use service::api_error::ApiError;
use uuid::Uuid;

use super::choice::Choice;
use super::field::Field;
use super::{Layout, form_problem, page};
use crate::access::{AuthorizedTenant, Person, Principal};
use crate::app::App;
use crate::db::invitation::Invitation;
use crate::db::mail;
use crate::http::extract::{Form, IdPath};
use crate::http::paging::Window;
use crate::people::invitations::{self, Created, Target};
use crate::people::{members, users};
use crate::tenant::Tenant;
use crate::validation::{FieldError, invalid_fields};

#[derive(Template)]
#[template(path = "team.html")]
struct TeamPage {
    layout: Layout,
    /// `/admin/team`, or the path of a tenant's members; the forms post below it.
    base: String,
    /// The tenant's slug and name; `None` for the platform.
    tenant: Option<(String, String)>,
    rows: Vec<Row>,
    invitations: Vec<OpenInvitation>,
    /// The mails that wait; none on the page of a tenant.
    mails: Vec<WaitingMail>,
    roles: Vec<&'static str>,
    can_manage: bool,
    email: Field,
    role: Choice,
    /// The invitation that was just created.
    created: Option<Created>,
    problem: Option<Problem>,
}

struct Row {
    id: Uuid,
    name: String,
    email: String,
    role: String,
    is_self: bool,
}

struct OpenInvitation {
    id: Uuid,
    email: String,
    role: String,
    invited_by: String,
    expires_at: String,
}

impl From<Invitation> for OpenInvitation {
    fn from(open: Invitation) -> Self {
        Self {
            id: open.id,
            email: open.email,
            role: open.role,
            invited_by: open.invited_by,
            expires_at: crate::views::time(open.expires_at),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct InviteForm {
    email: String,
    role: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub struct RoleForm {
    role: String,
}

/// The parts of a page beside its lists.
#[derive(Default)]
struct Shown {
    form: InviteForm,
    created: Option<Created>,
    problem: Option<Problem>,
}

async fn people_page(
    app: &App,
    person: &Person,
    place: Place<'_>,
    shown: Shown,
) -> Result<TeamPage, ApiError> {
    let (mut rows, roles): (Vec<Row>, Vec<&str>) = match place {
        Place::Team => {
            let row = |user: crate::db::user::User| Row {
                is_self: user.id == person.user.id,
                id: user.id,
                name: user.name,
                email: user.email,
                role: user.role,
            };
            let listed = users::list(app, Window::NEWEST).await?;
            let rows = listed.into_iter().map(row).collect();
            (rows, PlatformRole::ALL.iter().map(|role| role.as_str()).collect())
        }
        Place::Tenant(found) => {
            let row = |member: crate::db::membership::Member| Row {
                is_self: member.user.id == person.user.id,
                id: member.user.id,
                name: member.user.name,
                email: member.user.email,
                role: member.role.to_string(),
            };
            let listed = members::list(app, &found.tenant, Window::NEWEST).await?;
            let rows = listed.into_iter().map(row).collect();
            (rows, MemberRole::ALL.iter().map(|role| role.as_str()).collect())
        }
    };
    let mails = match place {
        Place::Team => mail::list(&mut *app.conn().await?, Window::NEWEST).await?,
        Place::Tenant(_) => Vec::new(),
    };
    rows.sort_by(|one, other| one.email.cmp(&other.email));
    let can_manage = place.can_manage(person);
    let open = if can_manage {
        invitations::list(app, place.target(), Window::NEWEST).await?
    } else {
        Vec::new()
    };
    let invited_roles = roles.iter().filter(|role| **role != "none");
    let options: Vec<_> =
        invited_roles.map(|role| ((*role).to_owned(), (*role).to_owned())).collect();
    let chosen = if shown.form.role.is_empty() { "viewer".to_owned() } else { shown.form.role };
    Ok(TeamPage {
        layout: Layout::signed_in(person, if place.is_team() { "Team" } else { "Members" }),
        base: place.base(),
        tenant: place.tenant().map(|tenant| (tenant.slug.to_string(), tenant.name.clone())),
        rows,
        invitations: open.into_iter().map(OpenInvitation::from).collect(),
        mails: mails.into_iter().map(crate::views::waiting_mail).collect(),
        roles,
        can_manage,
        email: Field::new("email", "E-mail", "email")
            .value(&shown.form.email)
            .with_problem(shown.problem.as_ref()),
        role: Choice::new("role", "Role", chosen, options).with_problem(shown.problem.as_ref()),
        created: shown.created,
        problem: shown.problem,
    })
}

/// The group of people that a page shows.
#[derive(Clone, Copy)]
enum Place<'a> {
    Team,
    Tenant(&'a AuthorizedTenant),
}

impl<'a> Place<'a> {
    fn is_team(self) -> bool {
        matches!(self, Self::Team)
    }

    fn tenant(self) -> Option<&'a Tenant> {
        match self {
            Self::Team => None,
            Self::Tenant(found) => Some(&found.tenant),
        }
    }

    fn target(self) -> Target<'a> {
        self.tenant().map_or(Target::Platform, Target::Tenant)
    }

    fn base(self) -> String {
        match self.tenant() {
            None => "/admin/team".to_owned(),
            Some(tenant) => format!("/admin/tenants/{}/members", tenant.slug),
        }
    }

    fn can_manage(self, person: &Person) -> bool {
        match self {
            Self::Team => PlatformRole::from_stored(&person.user.role) >= PlatformRole::Admin,
            Self::Tenant(found) => found.role == Some(protocol::api_keys::Role::Admin),
        }
    }
}

async fn show(app: &App, person: &Person, place: Place<'_>) -> Result<Response, ApiError> {
    page(StatusCode::OK, &people_page(app, person, place, Shown::default()).await?)
}

/// Shows the page with the link of the new invitation, or with the reason for which there is none.
async fn invite(
    app: &App,
    person: &Person,
    place: Place<'_>,
    form: InviteForm,
) -> Result<Response, ApiError> {
    let caller = Principal::Session(person.clone());
    match invitations::create(app, &caller, place.target(), &form.email, &form.role).await {
        Ok(created) => {
            let shown = Shown { created: Some(created), ..Shown::default() };
            page(StatusCode::CREATED, &people_page(app, person, place, shown).await?)
        }
        Err(failure) => {
            let (status, problem) = form_problem(failure)?;
            let shown = Shown { form, problem: Some(problem), created: None };
            page(status, &people_page(app, person, place, shown).await?)
        }
    }
}

fn chosen<T: std::str::FromStr>(form: &RoleForm) -> Result<T, ApiError> {
    let error = FieldError { code: FieldCode::InvalidRole, message: "Choose one of the roles." };
    form.role.parse().map_err(|_| invalid_fields(&[("role", Some(error))]))
}

pub async fn show_team(State(app): State<App>, person: Person) -> Result<Response, ApiError> {
    show(&app, &person, Place::Team).await
}

pub async fn invite_operator(
    State(app): State<App>,
    person: Person,
    Form(form): Form<InviteForm>,
) -> Result<Response, ApiError> {
    invite(&app, &person, Place::Team, form).await
}

pub async fn revoke_operator_invitation(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    invitations::revoke(&app, &Principal::Session(person), Target::Platform, id).await?;
    Ok(Redirect::to("/admin/team"))
}

pub async fn set_operator_role(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
    Form(form): Form<RoleForm>,
) -> Result<Redirect, ApiError> {
    let change = ChangeUser { role: Some(chosen(&form)?), name: None };
    users::change(&app, &Principal::Session(person), id, &change).await?;
    Ok(Redirect::to("/admin/team"))
}

pub async fn delete_operator(
    State(app): State<App>,
    person: Person,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    users::delete(&app, &Principal::Session(person), id).await?;
    Ok(Redirect::to("/admin/team"))
}

pub async fn show_members(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
) -> Result<Response, ApiError> {
    show(&app, &person, Place::Tenant(&found)).await
}

pub async fn invite_member(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
    Form(form): Form<InviteForm>,
) -> Result<Response, ApiError> {
    invite(&app, &person, Place::Tenant(&found), form).await
}

pub async fn revoke_member_invitation(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    let target = Target::Tenant(&found.tenant);
    invitations::revoke(&app, &Principal::Session(person), target, id).await?;
    Ok(Redirect::to(&Place::Tenant(&found).base()))
}

pub async fn set_member_role(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
    IdPath(id): IdPath,
    Form(form): Form<RoleForm>,
) -> Result<Redirect, ApiError> {
    let role = chosen(&form)?;
    members::set(&app, &Principal::Session(person), &found.tenant, id, role).await?;
    Ok(Redirect::to(&Place::Tenant(&found).base()))
}

pub async fn remove_member(
    State(app): State<App>,
    person: Person,
    found: AuthorizedTenant,
    IdPath(id): IdPath,
) -> Result<Redirect, ApiError> {
    members::remove(&app, &Principal::Session(person), &found.tenant, id).await?;
    Ok(Redirect::to(&Place::Tenant(&found).base()))
}
