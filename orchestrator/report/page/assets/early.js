(function () {
  "use strict";
  try {
    const theme = localStorage.getItem("stackbench-theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // No storage here (a private window, a strict browser): the page follows the system.
  }
})();
