import { texts } from "./texts.js";

/** How long a button asks whether it was meant. */
const meantMs = 4000;

/**
 * Has a button that can't be taken back ask whether it was meant, and do it
 * when it is pressed again. Returns what takes the question back.
 */
export function askTwice(b: HTMLButtonElement, asks: string, then: () => void): () => void {
  const text = b.textContent, label = b.getAttribute("aria-label");
  let asked: ReturnType<typeof setTimeout> | undefined;
  const rest = (): void => {
    clearTimeout(asked);
    asked = undefined;
    b.textContent = text;
    if (label !== null) b.setAttribute("aria-label", label);
  };
  b.addEventListener("click", () => {
    if (asked !== undefined) {
      rest();
      then();
      return;
    }
    b.textContent = asks;
    if (label !== null) b.setAttribute("aria-label", texts.meant(label, asks));
    asked = setTimeout(rest, meantMs);
  });
  return rest;
}
