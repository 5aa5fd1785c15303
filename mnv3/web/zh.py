"""The page's sentences in Simplified Chinese, by the English ones. What stands in braces is filled in by mnv3.words.

Names of places and their formats are the same on both sides; tests hold each sentence of the page against this table.
"""

from __future__ import annotations

CHINESE = {
    # The frame: labels, buttons, tabs
    "What MobileNetV3 sees in your picture, and what its attention did to it.":
        "看看 MobileNetV3 在你的图片里看到了什么，以及它的通道注意力做了什么。",
    "Picture": "图片",
    "Your picture": "你的图片",
    "Model": "模型",
    "Large costs nearly four times as many multiply-adds.": "Large 的乘加运算量接近 Small 的四倍。",
    "Weights": "权重",
    "What the network was trained on decides what it can name.": "网络用什么数据训练，决定了它能认出什么。",
    "Fetch weights": "下载权重",
    "Fetch weights ({megabytes:.0f} MB)": "下载权重（{megabytes:.0f} MB）",
    "Explain": "开始解释",
    "Examples": "示例",
    "Look": "观察",
    "Compare": "对比",
    "Classes": "类别",
    "Trust": "可信度",
    "Models": "模型库",
    "Predictions: click a class to ask about it": "预测结果：点击某个类别，查看对它的解释",
    "Upload, paste or take a picture, or click one of the examples: the answer appears here.":
        "上传、粘贴或拍摄一张图片，或点击一个示例：结果会显示在这里。",
    "No camera was found: connect one, or upload a picture.": "没有找到摄像头：请连接一个，或上传图片。",
    "The browser keeps the camera from this page: allow it there, or upload a picture.":
        "浏览器不允许本页面使用摄像头：请在浏览器中允许，或上传图片。",
    "The camera is in use elsewhere: free it, or upload a picture.": "摄像头正被其他程序占用：请先释放，或上传图片。",
    "The browser keeps the clipboard from this page: press Ctrl+V instead.": "浏览器不允许本页面读取剪贴板：请改按 Ctrl+V。",
    "Checkpoints": "检查点",
    "Two to four; Large and Small of the chosen weights while empty.": "选二到四个；留空则对比所选权重的 Large 与 Small。",
    "Many pictures at once": "批量对比多张图片",
    "Pictures, up to 200": "图片（最多 200 张）",
    "Compare all": "全部对比",
    "Cancel": "取消",
    "Choose up to 200 pictures, or none to compare the examples: each gets a row with what every checkpoint says, "
    "disagreements first.":
        "最多选择 200 张图片，不选则对比示例图片：每张一行，列出各检查点的判断，意见不一致的排在前面。",
    "Blocks": "模块",
    "Up to four; the picture’s three likeliest while empty.": "最多四个；留空则取该图片最可能的三个类别。",
    "Up to four; the most and the least class-specific while empty.": "最多四个；留空则取类别特异性最高和最低的模块。",
    "Test this map": "检验这张图",
    "Press ‘Test this map’ to see whether the class evidence of this picture can be trusted. It takes some seconds.":
        "按“检验这张图”，看看这张图片的类别证据是否可信。需要几秒钟。",
    "Use my own: a repo of the Hub, or the files of a folder that train.py wrote":
        "使用我自己的模型：Hub 上的仓库，或 train.py 输出文件夹中的文件",
    "A public repo of the Hugging Face Hub": "Hugging Face Hub 上的公开仓库",
    "One that train.py or mnv3.hub published.": "须由 train.py 或 mnv3.hub 发布。",
    "Open from the Hub": "从 Hub 打开",
    "Open these files": "打开这些文件",
    "Only you see what you open here, and it goes when others need the room. Weights are read as safetensors, never as "
    "pickles.":
        "在这里打开的内容只有你能看到，他人需要空间时会被移除。权重只按 safetensors 读取，绝不使用 pickle。",
    "Reading the catalogue.": "正在读取模型目录。",
    # What is going on
    "Comparing": "正在对比",
    "pictures": "张图片",
    "Explaining the picture": "正在解释图片",
    "Testing": "正在检验",
    "runs": "次运行",
    "Fetching": "正在下载",
    "Fetching {name}": "正在下载 {name}",
    "The weights ‘{weights}’ are here.": "权重“{weights}”已就绪。",
    "{name} is open, for you alone, and chosen in Look, Compare, Classes and Trust.":
        "{name} 已打开，仅你可见，并已在“观察”“对比”“类别”和“可信度”中选中。",
    # Look
    "<b>{name}</b> knows {count:,} kinds of things, {side}×{side} pixels":
        "<b>{name}</b> 能区分 {count:,} 类事物，输入 {side}×{side} 像素",
    "{count:,} parameters": "{count:,} 个参数",
    "{count:,.1f} M multiply-adds": "{count:,.1f} M 次乘加",
    "{time:.1f} ms here, the network alone": "在本机仅网络推理耗时 {time:.1f} 毫秒",
    "{top1:.1%} top-1 on {n:,} {of}": "top-1 准确率 {top1:.1%}（{n:,} 张{of}）",
    "test pictures": "测试图片",
    "ImageNet-1k, 1.28 million photographs": "ImageNet-1k，128 万张照片",
    "ImageNet-21k, then ImageNet-1k, 1.28 million photographs": "ImageNet-21k，再用 ImageNet-1k，128 万张照片",
    "CIFAR-10 as re-encoded JPEGs": "CIFAR-10（重新编码为 JPEG）",
    "training pictures, without those held out": "训练图片，不含留出部分",
    "training pictures": "训练图片",
    "example pictures": "示例图片",
    "validation pictures, as published": "验证图片（发布者公布）",
    "As the network got it": "网络实际看到的图片",
    "{side}×{side} pixels, cropped": "{side}×{side} 像素，已裁剪",
    "The picture as the network got it, {side} by {side} pixels": "网络实际看到的图片，{side} 乘 {side} 像素",
    "Evidence for ‘{label}’": "“{label}”的类别证据",
    "Grad-CAM, last map, {height}×{width}": "Grad-CAM，末层 {height}×{width}",
    "No place speaks for this class: the map is 0 everywhere.": "没有任何位置支持这个类别：整张图都是 0。",
    "The last map is a single cell: it can’t say where.": "最后一层特征图只有一格，无法指出位置。",
    "Every place speaks for this class alike: the map is the same everywhere.":
        "所有位置对这个类别的支持相同：整张图处处相等。",
    "Evidence for {label}, strongest in row {row}, column {column} of {height} by {width}":
        "{label} 的类别证据，在 {height} 乘 {width} 的图中第 {row} 行第 {column} 列最强",
    "This network has no squeeze-and-excitation blocks, so there are no gates to show.":
        "这个网络没有 SE（通道注意力）模块，因此没有门控值可显示。",
    "Block": "模块",
    "map, gates": "特征图，门控数",
    "Gates, one cell a channel": "门控值，每格一个通道",
    "{gates}, and below, minus reference: {differences}": "{gates}；下方为与参考值之差：{differences}",
    "Closed / open": "关闭 / 全开",
    "exactly 0 / 1, and mean": "恰为 0 / 1 的个数与均值",
    "Energy moved": "能量转移",
    "blue: away, orange: to": "蓝：移出，橙：移入",
    "blue: away, orange: to; {side}×{side}": "蓝：移出，橙：移入；{side}×{side}",
    "Effect on p(‘{label}’)": "对 p(“{label}”) 的影响",
    "own gates − reference gates": "实际门控 − 参考门控",
    "all": "全部",
    "every block at its reference gates at once": "所有模块同时取参考门控值",
    "<b>{block}</b> mattered most for ‘{label}’: Δp {change}. Click a row or a cell to look inside. All gates:":
        "<b>{block}</b> 对“{label}”影响最大：Δp {change}。点击一行或一格可查看内部。全部门控值：",
    "Reference gates: the mean over {count:,} {source}.": "参考门控值：在 {count:,} 张图片上的均值（{source}）。",
    "Effect: how much likelier the class is with the gates this picture got than with a block’s gates held at their "
    "reference, later blocks recomputed; not ‘the network without SE’, which would have been trained so.":
        "影响：使用这张图片的门控值，与把某个模块的门控值固定为参考值（其后各模块重新计算）相比，该类别的概率高出多少；"
        "这不等于“没有 SE 的网络”，那样的网络需要另行训练。",
    "A gate is one number for a whole channel, the same at every place: it is not a heatmap, and it does not say where "
    "the network looked. What varies over the picture is where a block moved activation energy, which says nothing of "
    "a class. Class evidence (Grad-CAM at the last map) does, as coarsely as that map is.":
        "一个门控值对应整个通道，在所有位置都相同：它不是热力图，也不说明网络看了哪里。随位置变化的是模块把激活能量移到了何处，"
        "而这与类别无关。类别证据（最后一层特征图上的 Grad-CAM）才与类别有关，其精细程度取决于该特征图的分辨率。",
    "{count} gates of {block}: mean {mean:.2f}, on average {moved:.2f} from the reference":
        "{block} 的 {count} 个门控值：均值 {mean:.2f}，与参考值平均相差 {moved:.2f}",
    ": arrow keys choose a channel, Enter shows it": "：用方向键选择通道，按回车键显示",
    "channel;gate;reference": "通道;门控值;参考值",
    "mean {mean:.2f}": "均值 {mean:.2f}",
    "moved {moved:.2f}": "偏移 {moved:.2f}",
    "one cell: nothing can move": "只有一格：无从转移",
    "nothing moved": "没有转移",
    "{block} moved {share:.1%} of the activation energy to other places": "{block} 把 {share:.1%} 的激活能量移到了别处",
    "PNG: save this picture": "PNG：保存这张图片",
    # Inside a row
    "Inside {block}": "{block} 内部",
    "Close {block}": "收起 {block}",
    "Close": "收起",
    "Channel {channel} of {count}": "通道 {channel}（共 {count} 个）",
    "Channel {channel} of {block}, strongest in row {row}, column {column} of {height} by {width}":
        "{block} 的通道 {channel}，在 {height} 乘 {width} 的图中第 {row} 行第 {column} 列最强",
    "Map of channel {channel}": "通道 {channel} 的特征图",
    "gate {gate:.3f} · reference {reference:.3f}": "门控值 {gate:.3f} · 参考值 {reference:.3f}",
    "0 everywhere: nothing comes through, whatever its gate": "处处为 0：无论门控值是多少，都没有内容通过",
    "a single cell of {value}: it can’t say where": "只有一格，值为 {value}：无法指出位置",
    "{value} everywhere: it can’t say where": "处处为 {value}：无法指出位置",
    "This channel is {words}.": "该通道{words}。",
    "The channels whose gates moved most from their reference; click one to see it large:":
        "门控值偏离参考值最多的通道；点击可放大查看：",
    "Energy moved by {block}": "{block} 的能量转移",
    "One cell: there is no other place to move to.": "只有一格：没有别处可移。",
    "Nothing moved to another place.": "没有能量移到别处。",
    "<b>{count} gates</b>: mean {mean:.3f}, of the reference {reference:.3f}":
        "<b>{count} 个门控值</b>：均值 {mean:.3f}，参考均值 {reference:.3f}",
    "{closed} closed (exactly 0), {opened} open (exactly 1), {between} between":
        "{closed} 个关闭（恰为 0），{opened} 个全开（恰为 1），{between} 个介于两者之间",
    "{dead} dead: closed in all {count:,} reference pictures too": "{dead} 个失活：在全部 {count:,} 张参考图片中也都关闭",
    "{share:.1%} of the activation energy went to other places": "{share:.1%} 的激活能量移到了别处",
    "z: (gate − reference) / standard deviation over the reference pictures":
        "z：（门控值 − 参考值）/ 参考图片上的标准差",
    "no z-scores: they need at least {count} reference pictures": "没有 z 分数：至少需要 {count} 张参考图片",
    "a channel’s map is what its gate multiplies: orange above 0, blue below; channels are counted from 0":
        "通道的特征图就是与门控值相乘的内容：橙色大于 0，蓝色小于 0；通道从 0 开始编号",
    "Gates": "门控值",
    "Gates − reference": "门控值 − 参考值",
    "{scale}; click a cell to see its channel": "{scale}；点击一格可查看对应通道",
    "{title} of {block}, {count} channels a row": "{block} 的{title}，每行 {count} 个通道",
    # Compare
    "Both say {label} ({said}).": "两者都判断为 {label}（{said}）。",
    "All say {label} ({said}).": "全部判断为 {label}（{said}）。",
    "{name} says {label} ({share:.0%})": "{name} 判断为 {label}（{share:.0%}）",
    "They disagree: {voices}.": "意见不一致：{voices}。",
    "They know different classes, so other words need not be another opinion.":
        "它们认识的类别不同，用词不同未必表示判断不同。",
    "says": "判断",
    "evidence for its top-1": "对其首选类别的证据",
    "SE at {side}×{side}": "{side}×{side} 处的 SE",
    "no SE": "没有 SE",
    "all gates’ effect on its top-1": "全部门控对其首选类别的影响",
    "Rows with the same map size stand beside each other; a dash: no SE there.":
        "特征图大小相同的模块并排显示；短横线表示该处没有 SE。",
    "{parameters:.2f} M parameters · {multiply_adds:,.1f} M multiply-adds":
        "{parameters:.2f} M 参数 · {multiply_adds:,.1f} M 次乘加",
    "{time:.1f} ms": "{time:.1f} 毫秒",
    "None of {sent} pictures yet.": "共 {sent} 张图片，尚未开始得出结果。",
    "{done} of {sent} pictures: the checkpoints disagree on {apart}{and_unread}.":
        "已完成 {done} / {sent} 张图片：各检查点意见不一致的有 {apart} 张{and_unread}。",
    "none": "0",
    ", and {count} could not be read": "，另有 {count} 张无法读取",
    "At most {count} are compared at once.": "一次最多对比 {count} 张。",
    "picture": "图片",
    "Save as CSV": "保存为 CSV",
    # Classes
    "This checkpoint brings no gate statistics for each class, so there is nothing to hold this picture against: "
    "checkpoints made by train.py have them, weights from torchvision and timm do not.":
        "这个检查点不带各类别的门控统计，因此没有可与这张图片对照的内容：由 train.py 生成的检查点带有这些统计，"
        "来自 torchvision 和 timm 的权重则没有。",
    "How much of each block’s gate variance lies between classes, shallow to deep:":
        "各模块门控值的方差中类间部分所占的比例，由浅到深：",
    "Mean gates of each class over the training pictures, and this picture’s gates over them:":
        "各类别在训练图片上的平均门控值，以及叠加其上的这张图片的门控值：",
    "From {pictures:,} {source}, {kinds} classes.": "来自 {pictures:,} 张图片（{source}），{kinds} 个类别。",
    "The share is between-class over total variance (η²), summed over a block’s channels: at 100% gates depend on the "
    "class alone, and gates that ignore it get {chance:.2%} by chance. It says that gates differ between classes, not "
    "that the network needs them to: for that, see the effects in Look. After the squeeze-and-excitation paper, "
    "section 7.2.":
        "该比例为类间方差与总方差之比（η²），在模块的所有通道上求和：100% 表示门控值完全由类别决定，而与类别无关的门控值"
        "仅凭偶然也会得到 {chance:.2%}。它说明门控值因类别而异，并不说明网络需要如此：这一点请看“观察”中的影响。"
        "方法参照 Squeeze-and-Excitation 论文第 7.2 节。",
    "No gate of this network ever varies, so none depends on the class.": "这个网络的门控值从不变化，因此都与类别无关。",
    "<b>{block}</b>’s gates depend most on the class: {share:.0%} of their variance is between classes.":
        "<b>{block}</b> 的门控值最依赖类别：其方差的 {share:.0%} 来自类间。",
    "<b>{block}</b>’s depend least: {share:.0%}.": "<b>{block}</b> 的依赖最小：{share:.0%}。",
    "After {block} it falls again, to {share:.0%} in {deepest}, the deepest.":
        "在 {block} 之后又下降，到最深的 {deepest} 为 {share:.0%}。",
    "{count} gates": "{count} 个门控",
    "gates never vary": "门控值从不变化",
    "{some} of {count} channels, evenly spaced": "{count} 个通道中等间隔取 {some} 个",
    "all {count} channels": "全部 {count} 个通道",
    "{some}; each plot has its own scale": "{some}；各图刻度不同",
    "all classes": "全部类别",
    "this picture": "这张图片",
    "channel": "通道",
    "gate": "门控值",
    "nearest to {classes}": "最接近 {classes}",
    "Gates of {block} by channel; this picture is {nearest}": "{block} 各通道的门控值；这张图片{nearest}",
    # Trust
    "The map on trial: evidence for ‘{label}’ in this picture by <b>{name}</b>, {height}×{width} cells.":
        "受检的图：<b>{name}</b> 在这张图片中对“{label}”的类别证据，{height}×{width} 格。",
    "This map beats both controls: random maps, and a Gaussian at the centre, which looks at nothing.":
        "这张图胜过两个对照：随机图，以及什么都不看的居中高斯图。",
    "This map beats random maps; a Gaussian at the centre, which looks at nothing, only by deletion.":
        "这张图胜过随机图，但只在删除检验中胜过什么都不看的居中高斯图。",
    "This map beats random maps; a Gaussian at the centre, which looks at nothing, only by insertion.":
        "这张图胜过随机图，但只在插入检验中胜过什么都不看的居中高斯图。",
    "This map beats random maps, but is no better than a Gaussian at the centre, which looks at nothing.":
        "这张图胜过随机图，但不比什么都不看的居中高斯图更好。",
    "This map beats random maps by deletion only: don’t build on it here.":
        "这张图只在删除检验中胜过随机图：此处不宜依赖它。",
    "This map beats random maps by insertion only: don’t build on it here.":
        "这张图只在插入检验中胜过随机图：此处不宜依赖它。",
    "This map is no better than random maps: don’t build on it here.": "这张图不比随机图更好：此处不宜依赖它。",
    "This map hardly changes when all that was learned is lost: don’t build on it, whatever else it passes.":
        "学到的东西全部丢失后，这张图几乎不变：无论它还通过了什么检验，都不宜依赖它。",
    "This picture is a weak test, as said below.": "这张图片检验力较弱，原因见下。",
    "One picture is one draw. The tests find maps that are wrong; none of them shows that a map is right, nor that "
    "what it marks is the network’s whole reason.":
        "一张图片只是一次抽样。这些检验能找出错误的图；没有一项能证明图是对的，也不能证明它标出的就是网络的全部依据。",
    "Does the map find the pixels that the answer hangs on?": "这张图找到了决定结果的像素吗？",
    "Does the map depend on what the network learned?": "这张图取决于网络学到的东西吗？",
    "On many pictures": "在大量图片上",
    "class evidence": "类别证据",
    "a Gaussian at the centre": "居中的高斯图",
    "mean of {count} random maps": "{count} 张随机图的平均",
    "Evidence": "证据",
    "Gaussian": "高斯",
    "Random": "随机",
    "Deletion": "删除",
    "Insertion": "插入",
    "share of pixels deleted": "已删除像素的比例",
    "share of pixels inserted": "已插入像素的比例",
    "lower is better": "越低越好",
    "higher is better": "越高越好",
    "smaller is better": "越小越好",
    "larger is better": "越大越好",
    "Curves: p of {label} over the {done}; areas: {areas}": "曲线：{label} 的概率随{done}的变化；面积：{areas}",
    "Area": "面积",
    "Mean area": "平均面积",
    "{low:.3f} to {high:.3f}": "{low:.3f} 至 {high:.3f}",
    "{own:.2f} against {other:.2f}": "{own:.2f} 对 {other:.2f}",
    "faster than": "更快",
    "about as fast as": "大致一样快",
    "more slowly than": "更慢",
    "Deletion: by this map p falls {random} by the random ones ({random_areas}) and {centred} by a Gaussian at the "
    "centre ({centred_areas}): {meaning}.":
        "删除：按这张图删除时概率的下降，与随机图相比{random}（{random_areas}），与居中的高斯图相比{centred}"
        "（{centred_areas}）：{meaning}。",
    "Insertion: by this map p returns {random} by the random ones ({random_areas}) and {centred} by a Gaussian at the "
    "centre ({centred_areas}): {meaning}.":
        "插入：按这张图插入时概率的回升，与随机图相比{random}（{random_areas}），与居中的高斯图相比{centred}"
        "（{centred_areas}）：{meaning}。",
    "it does not point at what the answer hangs on": "它没有指向决定结果的内容",
    "it knows more than that things stand in the middle": "它所知道的不只是“物体在中间”",
    "better than chance, but the middle of the picture is as good a guess": "好于偶然，但猜图片中央也一样好",
    "better than chance, but the middle of the picture is the better guess": "好于偶然，但猜图片中央更好",
    "Even blurred, the picture is ‘{label}’ with p {p:.2f}: there is little left for insertion to show.":
        "即使把图片模糊，网络仍以 {p:.2f} 的概率判断为“{label}”：插入能说明的很少。",
    "An even colour alone is ‘{label}’ with p {p:.2f}: there is little for deletion to take away.":
        "仅凭一块纯色，网络就以 {p:.2f} 的概率判断为“{label}”：删除能说明的很少。",
    "The network gives ‘{label}’ only p {p:.2f} in this picture, so areas are small whatever the map: they say most "
    "for a likely class.":
        "网络在这张图片中只给“{label}” {p:.2f} 的概率，因此无论用什么图，面积都很小：对可能性大的类别它们才最有意义。",
    "Mean rank correlation with the maps of {nets} randomised networks: <b>{mean}</b>.":
        "与 {nets} 个随机化网络的图的平均秩相关：<b>{mean}</b>。",
    "The randomised networks have no evidence for this class anywhere, so there is nothing to compare.":
        "随机化的网络对这个类别在任何位置都没有证据，因此无从比较。",
    "The map hardly changes when all that was learned is lost: it can’t be the network’s reason.":
        "学到的东西全部丢失后，图几乎不变：它不可能是网络的依据。",
    "The map depends on the weights in part; some of it comes from the picture alone.":
        "这张图部分取决于权重，另一部分只来自图片本身。",
    "The map changes with the weights as much as chance would have it, as it should.":
        "这张图随权重而变，变化程度与偶然相当，理应如此。",
    "as learned": "训练所得",
    "randomised {number}": "随机化 {number}",
    "rank correlation {value}": "秩相关 {value}",
    "Evidence map {name}, {related}": "证据图：{name}，{related}",
    "0 everywhere": "处处为 0",
    "Rank correlation with the map as learned: 1 is the same order of cells, 0 no relation. Two maps that have "
    "nothing in common still differ from 0: by ±{chance:.2f} (one standard deviation) if their {cells} cells were "
    "independent, by more since neighbours are alike; so the networks’ own spread decides. A low figure is needed but "
    "proves little: it says that the map depends on the weights, not that it is right. What a network can’t help "
    "seeing, such as edges and where the things stand, may keep the figure above 0.":
        "与训练所得的图的秩相关：1 表示各格次序相同，0 表示无关。两张毫无共同之处的图，与 0 仍会相差："
        "若 {cells} 格彼此独立，为 ±{chance:.2f}（一个标准差）；因相邻的格相似，实际更大，所以由各网络自身的离散程度来判断。"
        "数值低是必要的，但证明不了多少：它说明图取决于权重，并不说明图是对的。"
        "网络不可避免会看到的东西，例如边缘和物体的位置，可能使数值保持在 0 以上。",
    "Nothing was measured on many pictures for these weights. One picture is one draw: {command} measures as many as "
    "you have.":
        "这组权重没有在大量图片上测量过。一张图片只是一次抽样：{command} 可以测量任意多张。",
    "{count:,} test pictures": "{count:,} 张测试图片",
    "a machine unknown": "未知的机器",
    "For each picture’s likeliest class. p: how often a mean difference from class evidence is as large by chance "
    "(paired sign-flip test). Rank correlation with the maps of {nets} randomised networks: {mean} on average. "
    "Measured on {where}.":
        "针对每张图片最可能的类别。p：与类别证据的平均差异仅凭偶然达到这么大的频率（配对符号翻转检验）。"
        "与 {nets} 个随机化网络的图的秩相关平均为 {mean}。测量环境：{where}。",
    "How this was measured, and what it can’t say": "如何测量，以及它说明不了什么",
    "Deletion and insertion (Petsiuk et al. 2018): the map is enlarged to the network’s picture, as the page shows it, "
    "and its pixels are taken highest first in {steps} equal steps. Deletion puts the picture’s mean colour in their "
    "place; insertion brings them back into a blurred picture (Gaussian, an eighth of the side). The area is that "
    "under p over the share of pixels, by the trapezoid rule. Grey: from the lowest to the highest of the random maps.":
        "删除与插入（Petsiuk 等，2018）：把图放大到网络输入的大小（与页面所示相同），按值从高到低分 {steps} 等步取像素。"
        "删除是用图片的平均颜色替换它们；插入是把它们放回模糊的图片中（高斯模糊，宽度为边长的八分之一）。面积是概率随像素"
        "比例变化的曲线下面积，用梯形法计算。灰色：随机图中从最低到最高的范围。",
    "Half-deleted pictures look like nothing the network was trained on, so p may fall because they are odd. The "
    "controls meet the same oddity; what counts is the distance to them, and the areas alone say little.":
        "删了一半的图片不像网络训练时见过的任何东西，概率下降也可能只因为它们怪异。对照图遇到同样的怪异；"
        "重要的是与对照的差距，单看面积说明不了多少。",
    "Of the Gaussian only the order counts. Photographs show their things in the middle, so it is a strong control, "
    "and a map of few cells may not beat it.":
        "高斯图只有次序起作用。照片里的物体多在中间，所以它是很强的对照，格数很少的图未必胜得过它。",
    "Randomised weights (Adebayo et al. 2018): the values of every learned tensor are permuted, and BatchNorm’s "
    "statistics taken anew from the example pictures; without that such a network answers the same to everything.":
        "随机化权重（Adebayo 等，2018）：把每个学得的张量中的值打乱，再用示例图片重新统计 BatchNorm；"
        "否则这样的网络对任何输入的回答都相同。",
    # Models
    "Claims": "文章的论断（以下为英文）",
    "Trained on": "训练数据",
    "Parameters": "参数量",
    "Multiply-adds": "乘加运算量",
    "State": "状态",
    "here": "就绪",
    "to fetch": "待下载",
    "failed": "失败",
    "To fetch: choose it in the list Weights, and a button appears.": "待下载：在“权重”列表中选择它，就会出现下载按钮。",
    "seen by you alone": "仅你可见",
    "not measured": "未测量",
    "on {n:,} {of}": "在 {n:,} 张{of}上",
    "{variant}, width {width:g}": "{variant}，宽度 {width:g}",
    "{size} as the article built it": "文章实现的 {size}",
    "The most accurate for their cost or less: {names}.": "同等或更低运算量下最准确的是：{names}。",
    "at {side}×{side}": "输入 {side}×{side}",
    "Accuracy against cost": "准确率与运算量",
    "How they were trained": "训练过程",
    "No two of these networks were measured on the same pictures, so there is nothing to plot.":
        "没有两个网络在相同的图片上测量过，因此没有可画的图。",
    "One plot for each set of pictures: accuracies on different pictures don’t go on one axis.":
        "每组图片一张图：不同图片上的准确率不能放在同一坐标轴上。",
    "Alone on its pictures, and so not drawn: {names}.": "没有别的网络在相同的图片上测量过，因此未画出：{names}。",
    "million multiply-adds": "百万次乘加",
    "{name} {top1:.1%} at {cost:,.1f} million": "{name} {top1:.1%}，{cost:,.1f} 百万次乘加",
    "top-1 against multiply-adds: {points}": "top-1 准确率与乘加运算量：{points}",
    "top-1 on {n:,} {of}": "{n:,} 张{of}上的 top-1 准确率",
    "None of these brings the log of its training.": "这些模型都没有附带训练记录。",
    "Training accuracy is on augmented pictures: it may lie below.": "训练准确率是在增强后的图片上测得的，可能偏低。",
    "held out, averaged weights": "留出集，平均权重",
    "held out": "留出集",
    "training": "训练集",
    "training loss": "训练损失",
    "epoch": "轮次",
    "{name} ends at {value:.3g}": "{name}最终为 {value:.3g}",
    "{what} of {name} by epoch: {ends}": "{name} 各轮次的{what}：{ends}",
}  # fmt: skip
