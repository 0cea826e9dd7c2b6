/**
 * Lets the editor's styles into the page under a policy that knows no style
 * elements: as a sheet made by script, which the policy counts as script's.
 */
import { StyleModule } from "style-mod";

const sheets = new WeakMap<DocumentOrShadowRoot, { sheet: CSSStyleSheet; mounted: Set<StyleModule> }>();

StyleModule.mount = (root, modules): void => {
  const known = sheets.get(root) ?? { sheet: new CSSStyleSheet(), mounted: new Set<StyleModule>() };
  if (!sheets.has(root)) {
    sheets.set(root, known);
    root.adoptedStyleSheets = [...root.adoptedStyleSheets, known.sheet];
  }
  const list = Array.isArray(modules) ? (modules as readonly StyleModule[]) : [modules as StyleModule];
  if (list.every((m) => known.mounted.has(m))) return;
  known.mounted = new Set([...known.mounted].filter((m) => !list.includes(m)).concat(list));
  known.sheet.replaceSync(Array.from(known.mounted, (m) => m.getRules()).join("\n"));
};
