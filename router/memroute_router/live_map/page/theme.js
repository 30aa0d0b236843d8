// Light, dark, or as the system has it. What was chosen is kept in this browser alone.

const KEY = "memroute-map-theme";

/** Follow the control from now on. */
export function followTheme(select) {
  let kept = null;
  try {
    kept = localStorage.getItem(KEY);
  } catch {
    // A browser that keeps nothing: the choice lasts as long as the page.
  }
  if (kept === "light" || kept === "dark") select.value = kept;
  const apply = () => {
    if (select.value === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = select.value;
  };
  select.addEventListener("change", () => {
    apply();
    try {
      localStorage.setItem(KEY, select.value);
    } catch {
      // As above.
    }
  });
  apply();
}
