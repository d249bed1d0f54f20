const steps = [...document.querySelectorAll("[data-step]")];
const position = document.getElementById("position");
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
  steps.forEach((item, index) => {
    item.classList.toggle("done", index < at);
    if (index === at) item.setAttribute("aria-current", "step");
    else item.removeAttribute("aria-current");
  });
  progress.value = at + 1;
  position.textContent = step === "queued" && ahead > 0 ? `Wakes before this one: ${ahead}.` : "";
});
