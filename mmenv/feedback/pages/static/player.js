// An audio player: a button, a waveform to seek in, and the time.

const BARS = 48;
const SVG = "http://www.w3.org/2000/svg";
let playing = null;

// A copy of a template's content that belongs to the page: in the template's own document, pictures do not load.
export function copyTemplate(template) {
  return document.importNode(document.getElementById(template).content, true).firstElementChild;
}

export function createPlayer(url, label) {
  const node = copyTemplate("player-template");
  const [button, wave, seek, clock] = [".play", ".wave svg", "input", ".clock"].map((s) => node.querySelector(s));
  const audio = new Audio();
  audio.preload = "auto";
  audio.src = url;
  button.setAttribute("aria-label", `Play ${label}`);
  seek.setAttribute("aria-label", `Position in ${label}`);
  const bars = drawBars(wave, new Array(BARS).fill(0.12));
  const showPosition = () => {
    const length = audio.duration || 0;
    const at = length ? audio.currentTime / length : 0;
    seek.value = at;
    bars.forEach((bar, i) => bar.classList.toggle("past", (i + 0.5) / BARS <= at));
    clock.textContent = `${(audio.paused && !at ? length : audio.currentTime).toFixed(1)} s`;
  };
  const follow = () => {
    showPosition();
    if (!audio.paused) requestAnimationFrame(follow);
  };
  const showState = () => {
    node.classList.toggle("playing", !audio.paused);
    button.setAttribute("aria-label", `${audio.paused ? "Play" : "Pause"} ${label}`);
    follow();
  };
  for (const event of ["play", "pause", "ended", "loadedmetadata"]) audio.addEventListener(event, showState);
  audio.addEventListener("error", () => node.classList.add("broken"));
  seek.addEventListener("input", () => {
    audio.currentTime = seek.value * (audio.duration || 0);
    showPosition();
  });
  node.toggle = () => {
    if (!audio.paused) return audio.pause();
    if (playing && playing !== audio) playing.pause();
    playing = audio;
    if (node.classList.contains("broken")) audio.load();
    node.classList.remove("broken");
    audio.play().catch(() => node.classList.toggle("broken", audio.error !== null));
  };
  node.pause = () => audio.pause();
  button.addEventListener("click", () => node.toggle());
  drawWaveform(url, bars);
  return node;
}

function drawBars(svg, heights) {
  return heights.map((height, i) => {
    const bar = document.createElementNS(SVG, "rect");
    for (const [name, value] of Object.entries({ x: i * 4 + 0.8, width: 2.4, rx: 1.2 })) bar.setAttribute(name, value);
    svg.append(bar);
    setHeight(bar, height);
    return bar;
  });
}

function setHeight(bar, height) {
  const tall = Math.max(2.4, 30 * height);
  bar.setAttribute("height", tall);
  bar.setAttribute("y", 16 - tall / 2);
}

// Bars with the loudness of each part. A sound that cannot be decoded leaves them low: it may still play.
async function drawWaveform(url, bars) {
  try {
    const bytes = await (await fetch(url)).arrayBuffer();
    const sound = (await new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes)).getChannelData(0);
    const part = Math.ceil(sound.length / BARS);
    const loud = bars.map((_, i) => sound.subarray(i * part, (i + 1) * part).reduce((a, x) => Math.max(a, Math.abs(x)), 0));
    const peak = Math.max(...loud, 1e-4);
    loud.forEach((x, i) => setHeight(bars[i], x / peak));
  } catch (error) {
    console.info(`no waveform of ${url}: ${error.message}`);
  }
}
