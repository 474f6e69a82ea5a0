// What keeps the elements from being read: another theme than the one asked for, texts whose contrast with what is
// painted behind them is under 4.5 to 1 (WCAG AA), and, if they must fit, what is wider than its place.
async (roots, [theme, fits]) => {
    // Colours that are on their way to others are waited for.
    const ends = (one) => one.playState === "running" && one.effect.getComputedTiming().endTime !== Infinity;
    const moving = roots.flatMap((root) => root.getAnimations({subtree: true})).filter(ends);
    await Promise.all(moving.map((one) => one.finished.catch(() => null)));
    const numbers = (text) => (text.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
    const parse = (text) => numbers(text).map((v, i) => (text.startsWith("color(srgb") && i < 3 ? 255 * v : v));
    const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => sum + weight * linear(rgb[i] / 255), 0);
    const mix = (under, [color, alpha]) => under.map((v, i) => v * (1 - alpha) + color[i] * alpha);
    const paper = (node) => {
        const layers = [];
        for (let at = node; at; at = at.parentElement) {
            const color = parse(getComputedStyle(at).backgroundColor);
            layers.push([color, color.length < 4 ? 1 : color[3]]);
            if (layers.at(-1)[1] === 1) break;
        }
        return layers.reverse().reduce(mix, [255, 255, 255]);
    };
    const named = (node) => node.className.baseVal ?? node.className;
    const lowContrast = (root) => {
        const found = [];
        for (const node of root.querySelectorAll("*")) {
            const own = [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim());
            if (!own || node.closest(":disabled, [hidden], title, option, select") || !node.getClientRects().length) {
                continue;
            }
            const style = getComputedStyle(node);
            const under = paper(node);
            let opacity = 1;
            for (let at = node; at !== root; at = at.parentElement) opacity *= Number(getComputedStyle(at).opacity);
            const ink = mix(under, [parse(node instanceof SVGElement ? style.fill : style.color), opacity]);
            const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
            const ratio = (a + 0.05) / (b + 0.05);
            if (ratio < 4.5) found.push(`${named(node)}: ${node.textContent} has a contrast of ${ratio.toFixed(2)}`);
        }
        return found;
    };
    if (!roots.length) return ["there is nothing to read"];
    return roots.filter((root) => root.isConnected).flatMap((root) => {
        const found = lowContrast(root);
        const over = root.scrollWidth - root.clientWidth;
        if (fits && over > 0) found.push(`${named(root)} is ${over} px wider than its place`);
        if (theme && root.dataset.theme !== theme) found.push(`${named(root)} is in the theme ${root.dataset.theme}`);
        return found;
    });
}
