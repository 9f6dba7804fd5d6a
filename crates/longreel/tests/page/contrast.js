/* Texts whose contrast is below 4.5 (3 where they are large), as [text, ratio]. */
const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
const rgba = colour => {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = colour;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
  return [r, g, b, a / 255];
};
const over = (top, below) => top.slice(0, 3).map((v, i) => v * top[3] + below[i] * (1 - top[3]));
const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const ground = element => {
  const grounds = [];
  for (let at = element; at; at = at.parentElement) {
    const colour = rgba(getComputedStyle(at).backgroundColor);
    if (colour[3] > 0) grounds.push(colour);
    if (colour[3] === 1) break;
  }
  return grounds.reduceRight((below, colour) => over(colour, below), [255, 255, 255]);
};
const weak = [];
for (const element of document.querySelectorAll('body *')) {
  const text = [...element.childNodes].filter(node => node.nodeType === 3).map(node => node.data.trim()).join('');
  if (!text || !element.checkVisibility() || element.disabled || element.closest('.screen, .poster, .visually-hidden, .skip, option')) continue;
  const style = getComputedStyle(element), behind = ground(element);
  const a = light(over(rgba(style.color), behind)), b = light(behind);
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const isLarge = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.7 && style.fontWeight >= 700);
  if (ratio < (isLarge ? 3 : 4.5)) weak.push([text.slice(0, 40), Math.round(ratio * 10) / 10]);
}
return weak;
