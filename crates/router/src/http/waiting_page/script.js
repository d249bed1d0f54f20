const steps = [...document.querySelectorAll("[data-step]")];
const said = document.getElementById("said");
const progress = document.querySelector("progress");
const events = new EventSource("/.cial/wake");
events.addEventListener("progress", (event) => {
  const { step, ahead } = JSON.parse(event.data);
  if (step === "ready" || step === "failed") {
    events.close();
    location.reload();
    return;
  }
  const at = steps.findIndex((item) => item.dataset.step === step);
  steps.forEach((item, place) => {
    item.classList.toggle("done", place < at);
    if (place === at) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
  progress.value = at + 1;
  said.textContent = step === "queued" && ahead > 0 ? `${ahead} before it.` : "";
});
