// The texts of a document, those in shadow trees among them, that stand out from what is behind them by less than 4.5 to 1, with that ratio.
(() => {
  const room = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const bytes = (colour) => {
    room.clearRect(0, 0, 1, 1);
    room.fillStyle = colour;
    room.fillRect(0, 0, 1, 1);
    return room.getImageData(0, 0, 1, 1).data;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement ?? at.getRootNode().host) {
      const colour = getComputedStyle(at).backgroundColor;
      if (bytes(colour)[3] === 255) return colour;
    }
    return "Canvas";
  };
  const luminance = (colour) => {
    const [red, green, blue] = [...bytes(colour)].map((byte) => byte / 255).map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const below = (root) => [...root.querySelectorAll("*")].flatMap((element) => [element, ...(element.shadowRoot ? below(element.shadowRoot) : [])]);
  const faint = [];
  for (const element of below(document.body)) {
    const text = [...element.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()).map(({ data }) => data.trim());
    if (!text.length || !element.checkVisibility() || element.namespaceURI.endsWith("svg") || element.matches(".skip")) continue;
    const [one, other] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (ratio < 4.5) faint.push([text[0], Number(ratio.toFixed(2))]);
  }
  return faint;
})()
