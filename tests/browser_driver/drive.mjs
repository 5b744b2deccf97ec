// Uses examples/browser/ as a person would, in Chromium, and prints what the page found: a line of JSON for each image,
// the camera last.
//
//     node drive.mjs CHROMIUM URL MODEL CAMERA(.mjpeg) IMAGE...
import puppeteer from "puppeteer-core";

const [executablePath, url, model, camera, ...images] = process.argv.slice(2);
const browser = await puppeteer.launch({
  executablePath,
  args: [
    "--no-sandbox", // Chromium's own does not start as root
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
    `--use-file-for-fake-video-capture=${camera}`,
  ],
});
try {
  const page = await browser.newPage();
  page.on("console", (message) => console.error(message.text()));
  page.on("pageerror", (error) => console.error(error));
  await page.goto(url);
  const says = (text) =>
    page.waitForFunction(
      (text) => {
        const status = document.getElementById("status");
        if (status.className === "error") throw new Error(status.textContent);
        return status.textContent.includes(text);
      },
      { timeout: 120000 },
      text,
    );
  const found = async (action) => {
    await page.evaluate(() => delete window.found);
    await action();
    await page.waitForFunction(() => window.found ?? document.getElementById("status").className, { timeout: 120000 });
    const result = await page.evaluate(() => window.found ?? document.getElementById("status").textContent);
    console.log(JSON.stringify(result));
  };
  await (await page.$("#model")).uploadFile(model);
  await says("Choose an image");
  for (const image of images) await found(async () => (await page.$("#image")).uploadFile(image));
  await found(() => page.click("#camera"));
} finally {
  await browser.close();
}
