"use strict";
{
  const gallery = document.querySelector(".gallery"), tools = gallery.querySelector(".tools");
  const range = tools.querySelector("[type=range]");
  const show = () => gallery.style.setProperty("--over", range.value / 100);
  range.addEventListener("input", show);
  for (const choice of tools.querySelectorAll("[type=radio]"))
    choice.addEventListener("change", () => { gallery.dataset.layer = choice.value; });
  tools.hidden = false;
  show();
}
